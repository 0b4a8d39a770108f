// Package netlink is the map of how devices and boxes talk to each other. It
// holds no code.
//
//	discover    finding a box in the local network by its name
//	noiseconn   a net.Conn made into an authenticated, encrypted byte stream;
//	            what a stranger can cost a box
//	pairing     the QR code of a box, the recovery sheet, and the exchange in
//	            which a device and a box come to know each other
//	pairing/picture
//	            the QR code in a photo, for members' programs only
//	replicate   the messages that move logs, receipts, reads and administration
//	            over a stream, and the session that sends and answers them
//
// Each package may import those above it in this list, and storage/merklelog
// and storage/account. None of them opens a store, and none but discover, at the
// port that is the same for everybody, listens: the caller brings both.
//
// A connection is born like this:
//
//	person   scans the QR code             pairing.ParseAny, picture.Read
//	device   asks for the box's name       discover.Lookup
//	box      answers for its name          discover.Responder
//	device   dials TCP, Noise XKpsk0       noiseconn.Dial in ModePair
//	box      admits and answers            noiseconn.Server, Gate
//	both     exchange who they are         pairing.Join, pairing.Serve
//
// and from then on
//
//	device   dials TCP, Noise IKpsk2       noiseconn.Dial in ModeLink
//	both     replicate until one leaves    replicate
//
// PROTOCOL.md in each package gives the bytes, the limits and the reasons.
package netlink
