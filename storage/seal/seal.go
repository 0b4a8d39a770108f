// Package seal is the member's half of CoBox's cryptography: the recovery
// phrase and what is derived from it, the keys of a device, the envelopes that
// hand out a log's keys, and the sealing and opening of blocks.
//
// The chain from words to data is
//
//	12 words → [Entropy] → [Account]: certifies devices, opens envelopes
//	envelope → [Envelope]: the keys of one log, its space and its roster
//	log key  → [Sealer], [Opener]: blocks of exactly 65,536 bytes
//
// A device has keys of its own ([Device]), random and never derived from the
// phrase: two machines restored from one phrase must not write one log. It adds
// data and reads its spaces; only the phrase certifies, revokes and recovers.
//
// What it promises:
//
//   - No key is used twice with one nonce for two plaintexts, even if a disk
//     image is cloned, state is rolled back or the random generator repeats.
//     Every random value that would have to be unique is mixed with a secret
//     and the plaintext first.
//   - A block or envelope opens under exactly one key: a commitment precedes
//     every ciphertext, so a wrong key is an error and never a garbled result.
//   - A secret's String, Format, LogValue and MarshalText print nothing of it.
//     (Package fmt cannot call methods on unexported fields: a struct that
//     keeps a key in one needs a Format method of its own, as here. The verb
//     %p asks no method either; vet refuses it for these types.)
//   - Parsers accept canonical bytes only and check lengths before allocating.
//
// Formats, limits and the reasons behind them are in FORMAT.md. A box must not
// be able to open what it holds, so nothing that runs on a box imports this
// package; what a box needs to know about identities is in storage/account.
package seal

import (
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/binary"

	"cobox/storage/merklelog"
)

// expand is HKDF-Expand with SHA-512 to 32 bytes; info is label ‖ parts.
func expand(key []byte, label string, parts ...[]byte) [32]byte {
	info := label
	for _, p := range parts {
		info += string(p)
	}
	out, err := hkdf.Expand(sha512.New, key, info, 32)
	if err != nil {
		panic("seal: HKDF-Expand to 32 bytes: " + err.Error()) // only for more than 255 hashes
	}
	return [32]byte(out)
}

// contextSize is the length of ctx = LogID ‖ index u64 ‖ epoch u32, which says
// where in which log something was sealed and under which of its keys.
const contextSize = 32 + 8 + 4

func appendContext(dst []byte, log merklelog.LogID, index uint64, epoch uint32) []byte {
	dst = append(dst, log[:]...)
	dst = binary.BigEndian.AppendUint64(dst, index)
	return binary.BigEndian.AppendUint32(dst, epoch)
}
