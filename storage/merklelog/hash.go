package merklelog

import "crypto/sha256"

// emptyRoot is the root of the tree without leaves (RFC 6962, section 2.1).
var emptyRoot = Hash(sha256.Sum256(nil))

// EmptyRoot returns the root of a log without blocks.
func EmptyRoot() Hash { return emptyRoot }

// leafHash is RFC 6962's hash of a record: SHA-256(0x00 ‖ leaf).
func leafHash(l *Leaf) Hash {
	var buf [1 + LeafSize]byte
	copy(buf[1:], l[:])
	return sha256.Sum256(buf[:])
}

// nodeHash is RFC 6962's hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
func nodeHash(left, right *Hash) Hash {
	var buf [1 + 2*HashSize]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[1+HashSize:], right[:])
	return sha256.Sum256(buf[:])
}
