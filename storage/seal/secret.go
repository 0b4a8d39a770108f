package seal

import (
	"fmt"
	"io"
	"log/slog"
)

// redacted is what every secret prints as, whatever the verb or encoding.
const redacted = "(secret)"

// hidden makes a struct that embeds it print as redacted.
type hidden struct{}

func (hidden) String() string               { return redacted }
func (hidden) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (hidden) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (hidden) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// The arrays cannot embed, so each has the four methods itself.

func (Entropy) String() string               { return redacted }
func (Entropy) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (Entropy) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Entropy) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (RecoveryRoot) String() string               { return redacted }
func (RecoveryRoot) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (RecoveryRoot) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (RecoveryRoot) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (NoisePrivate) String() string               { return redacted }
func (NoisePrivate) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (NoisePrivate) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (NoisePrivate) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (KEMPrivate) String() string               { return redacted }
func (KEMPrivate) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (KEMPrivate) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (KEMPrivate) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (LogKey) String() string               { return redacted }
func (LogKey) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (LogKey) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (LogKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (ChunkIDKey) String() string               { return redacted }
func (ChunkIDKey) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (ChunkIDKey) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (ChunkIDKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (ChunkerKey) String() string               { return redacted }
func (ChunkerKey) Format(s fmt.State, _ rune)   { _, _ = io.WriteString(s, redacted) }
func (ChunkerKey) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (ChunkerKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
