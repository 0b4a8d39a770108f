// Package replica is a box's store: verified copies of logs that the box cannot
// read, and small tables for what else a box has to remember. Everything is in
// one Pebble database in one directory. It is the only package that imports
// Pebble, and the member's program never imports it.
//
// Where to start: [Open]; then for a log, in this order,
// [Store.OfferCheckpoint], [Store.AppendLeaves], [Store.PutBlock] and
// [Store.Commit]; [Store.ReadBlock] and [Store.Inclusion] to serve it;
// [Store.Table] for small keys; [Store.Check] to verify everything.
//
// # What it promises
//
//   - What Commit returns is durable: whatever happens to power or process,
//     every block that it counts can be read afterwards, and the checkpoint is
//     there. Nothing else may be receipted.
//   - Nothing is taken in before it is verified, each block against its leaf
//     and each leaf against a signed root, and nothing is handed out before it
//     is verified again. Damage is an error that names log and block, and a bad
//     block becomes a hole; it never ends the process.
//   - After a crash, Open puts everything in order and asks for no repair.
//   - A log's checkpoint never goes back, and of two histories signed by one
//     writer the store keeps the one it had, and the evidence.
//   - Memory does not grow with what is stored, nor with what a member sends,
//     but for 16 bytes for each gap in a log in use, of which there are at most
//     MaxGaps.
//
// # How blocks are written
//
// All sessions fill one table at a time, an sstable of at most 64 MiB of our
// own making, under consecutive arrival numbers. It is synced and handed to
// Pebble by Ingest, which only links it, so that a block is written to the disk
// once. Then one synced batch brings the index: where each block lies, the
// run, the usage of the accounts. A table is closed when it is full or when a
// Commit waits for it; Commits wait for each other up to two seconds as long as
// blocks keep coming, which keeps tables large. A Commit of at most 16 blocks
// is one batch through the write-ahead log instead, blocks and index together.
//
// A failed sync is never repeated. If it was that of a table, its blocks are
// forgotten and asked for again; if it was that of the write-ahead log or a
// manifest, the process ends and the next start looks at what is there.
//
// FORMAT.md has the bytes and what a crash leaves at each step.
package replica
