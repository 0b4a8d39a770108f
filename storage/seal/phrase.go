package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"

	"github.com/tyler-smith/go-bip39"
	"github.com/tyler-smith/go-bip39/wordlists"
)

// PhraseWords is the number of words in a recovery phrase.
const PhraseWords = 12

// Entropy is the 128-bit secret of an account, which people keep as the 12
// words of BIP-39's English list.
type Entropy [16]byte

// NewEntropy makes the secret of a new account.
func NewEntropy() (e Entropy) {
	_, _ = rand.Read(e[:]) // never fails: crypto/rand ends the process instead
	return e
}

// Phrase returns the 12 words, separated by single spaces.
func (e Entropy) Phrase() string {
	phrase, err := bip39.NewMnemonic(e[:])
	if err != nil {
		panic("seal: phrase of 16 bytes: " + err.Error()) // only for other lengths
	}
	return phrase
}

var (
	// ErrPhraseLength means that a phrase does not have 12 words.
	ErrPhraseLength = errors.New("a recovery phrase has 12 words")
	// ErrPhraseChecksum means that every word is in the list but they do not
	// belong together: one is wrong or two changed places. One phrase in 16
	// with such a mistake passes the checksum unnoticed.
	ErrPhraseChecksum = errors.New("the words of the recovery phrase do not fit together: one of them is wrong, or their order is")
)

// PhraseError names a word that is not in the list.
type PhraseError struct {
	Word        int      // 1 for the first
	Got         string   // as typed
	Suggestions []string // the likeliest words first, at most 3; may be empty
}

func (e *PhraseError) Error() string {
	msg := fmt.Sprintf("word %d of the recovery phrase, %.40q, is not in the word list", e.Word, e.Got)
	if len(e.Suggestions) > 0 {
		msg += "; did you mean " + strings.Join(e.Suggestions, " or ") + "?"
	}
	return msg
}

// LogValue keeps the words, wrong or right, out of logs.
func (e *PhraseError) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("word %d of the recovery phrase is not in the word list", e.Word))
}

// ParsePhrase reads 12 words as people write and copy them: capitals, any white
// space, commas and numbering ("1. word 2) word") do not matter. The first word
// that is not in the list is reported as a *PhraseError, another number of words
// as ErrPhraseLength, words that do not belong together as ErrPhraseChecksum.
func ParsePhrase(text string) (e Entropy, err error) {
	words := phraseWords(text)
	if len(words) == 0 || len(words) > 2*PhraseWords {
		return e, fmt.Errorf("seal: reading phrase: %w, not %d", ErrPhraseLength, len(words))
	}
	// A misspelt word says more than a wrong count: two words written without
	// a space are both.
	for i, w := range words {
		if _, ok := bip39.GetWordIndex(w); !ok {
			return e, fmt.Errorf("seal: reading phrase: %w",
				&PhraseError{Word: i + 1, Got: w, Suggestions: suggest(w, wordlists.English)})
		}
	}
	if len(words) != PhraseWords {
		return e, fmt.Errorf("seal: reading phrase: %w, not %d", ErrPhraseLength, len(words))
	}
	raw, err := bip39.EntropyFromMnemonic(strings.Join(words, " "))
	if err != nil {
		return e, fmt.Errorf("seal: reading phrase: %w", ErrPhraseChecksum)
	}
	return Entropy(raw), nil
}

// phraseWords splits text into lower-case words without numbering.
func phraseWords(text string) []string {
	var words []string
	for _, field := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || r == ',' || r == ';'
	}) {
		word := strings.TrimFunc(field, notAlphanumeric)
		// "7.word" and "7" are numbering; in "0range" the digit is a slip for a
		// letter and belongs to the word.
		if rest := strings.TrimLeftFunc(word, unicode.IsDigit); rest != word {
			if next := strings.TrimLeftFunc(rest, notAlphanumeric); next != rest || rest == "" {
				word = next
			}
		}
		if word != "" {
			words = append(words, word)
		}
	}
	return words
}

func notAlphanumeric(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }
