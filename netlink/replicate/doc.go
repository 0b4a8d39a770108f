// Package replicate moves logs between two peers over an authenticated
// connection: checkpoints, leaves, blocks and receipts one way or both, reads
// of blocks for a restore, lists of logs, and requests by method for
// administration.
//
// The parties: a device offers the logs it writes and reads its account's logs;
// a box holds logs, gives receipts and serves. The messages are symmetric, so
// two boxes can do both with each other. Who the peer is, the connection's
// handshake has found out ([Peer]); what it may do, the box decides
// ([Authorizer], [Admin]).
//
// Where to start: [NewSession] over a [Conn], and [Session.Run] in a goroutine
// of the caller. Then, on a device, [Session.Offer] a [Source] and
// [Offering.WaitReceipt]; or [Session.Logs] and [Session.Read]; or
// [Session.Request] or [Session.Upload]. A box fills in [Config.Box] and has nothing more to call.
// PROTOCOL.md specifies every message; testdata/vectors.txt freezes them.
//
// What the package promises:
//
//   - Nothing that was not verified reaches a store, a reader or a device's view
//     of what is receipted: leaves against a signed checkpoint, blocks against
//     leaves, receipts against the box's key and the device's own log.
//   - A receipt is sent only after the store's Commit has returned for it.
//   - Memory is bounded whatever the peer sends, and the time that one peer
//     takes is taken from nobody else: sessions share nothing but [Limits].
//   - A peer that breaks the protocol loses its session, with a reason.
//   - Run waits for every goroutine of its session.
//   - Moving a block allocates nothing and copies it once, into the store.
package replicate
