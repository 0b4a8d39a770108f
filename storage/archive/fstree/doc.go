// Package fstree is the file-system side of the member's archive: it turns
// directory trees into nodes and nodes into directory trees. It knows nothing
// of logs, blocks, keys or the network.
//
// Start at one of four places:
//
//   - [Node] is one directory entry as it is kept; [AppendListing] and
//     [ParseListing] turn a directory's nodes into bytes and back. FORMAT.md
//     beside this file has the byte tables.
//   - [Scan] walks the trees below one or more roots and hands out each
//     directory after everything below it.
//   - [Dir.Open] opens one scanned file for reading and tells whether it was
//     replaced or changed meanwhile.
//   - [OpenTarget] opens the directory that a restore writes to.
//
// What it promises. Names, link targets and attribute values are bytes and
// never assumed to be text in any encoding. Once below a root, neither reading
// nor writing goes through a symbolic link, whatever another process or a
// hostile listing does meanwhile: on Linux every directory is reached by
// handles and lookups that refuse links; elsewhere through [os.Root]. Paths
// longer than the system's limit work on Linux. A file in a restored tree is
// either the old one or the complete new one, never a part. What a parser
// accepts, it would write the same way; nothing that it reads makes it panic
// or take memory out of proportion to its input.
package fstree
