// Package storage is the map of CoBox's data at rest; it has no code of its own.
//
// A member's device turns files into sealed blocks and commits to them in
// append-only logs. A box keeps verified copies of such logs and can read none
// of them. The packages, in the order in which they may import each other:
//
//	merklelog      what a log is: its identity, manifest, leaves, checkpoints, proofs.
//	               Pure: no I/O, no clock, no goroutine. Everything else builds on it.
//	account        the public records of an account and its devices: card,
//	               certificate, revocation. Opens nothing.
//	seal           the secrets: recovery phrase, account and device keys, key
//	               envelopes, sealing and opening of blocks. Member only.
//	chunker        content-defined chunk boundaries under a secret key. Member only.
//	archive        files to records to blocks and back: backup, snapshot, restore.
//	               Member only. Below it:
//	archive/fstree   reading and writing file systems
//	archive/spool    the device's own copy of the log it writes, until boxes have it
//	replica        the box's store of verified leaves and blocks. The only importer
//	               of Pebble for the box's data; never imported by the member's program.
//
// The words used everywhere:
//
//	block       65,536 bytes, always: sealed data (type 1) or key envelope (type 2)
//	leaf        33 bytes that commit to a block: its type and its BLAKE3 hash
//	log         an append-only sequence of blocks with exactly one writing device
//	checkpoint  (log, size, root), signed by the log's writer
//	replica     a box's verified copy of a log
//	receipt     a box's signed statement of what is durable there, with its holes
//	hole        a block below a checkpoint that its holder does not have
//	spool       where a device keeps blocks until a box has receipted them
//
// Each package that fixes bytes has a FORMAT.md beside its code and frozen
// vectors under testdata.
package storage
