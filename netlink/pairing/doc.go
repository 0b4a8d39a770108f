// Package pairing is how a device and a box that have never met come to know
// each other: the code that a person scans, and the exchange that follows.
//
// There are two codes, both texts that fit a QR code:
//
//   - A Code belongs to one box and holds a one-time secret. The box shows it
//     to whoever may claim it, or an administrator makes one as an invite.
//   - A Sheet holds no secret. It names the boxes of an account, so that the
//     account can be recovered with it and the recovery phrase.
//
// Start with ParseAny for text that a person gives, and with package picture for
// a photo or a screenshot. Draw makes the QR code of a text, as a PNG file or for
// a terminal.
//
// After the handshake of noiseconn in ModePair the device calls Join and the
// box calls Serve: the device says who it is and gets what it needs for links.
//
// The texts are frozen: they are printed on stickers and sheets. PROTOCOL.md
// beside this file gives every byte of texts and messages. Parsers accept only
// what the matching encoder makes.
package pairing
