// Package noiseconn turns a net.Conn into an authenticated, encrypted byte
// stream between a member's device, or another box, and a box.
//
// The parties and their keys:
//
//   - The box has a static X25519 key. Whoever dials must know it: it comes
//     from the QR code when pairing and from the device's own records later.
//   - The dialling peer has a static X25519 key too. It travels encrypted.
//   - Both share a 32-byte secret (PSK). In ModePair it is derived from the
//     one-time secret of the QR code, in ModeLink it is the secret that both
//     sides agreed on when they paired.
//
// ModePair is Noise_XKpsk0_25519_ChaChaPoly_BLAKE2b, ModeLink is
// Noise_IKpsk2_25519_ChaChaPoly_BLAKE2b. PROTOCOL.md beside this file gives
// every byte.
//
// Start with Dial on the member's side. On the box's side start with Server,
// which owns the accept loop and the Gate, or with Accept for one connection.
//
// What the package promises:
//
//   - No handshake completes without a PSK of 32 bytes that are not all zero.
//   - A box sends nothing before it has seen a message that only a holder of
//     its public key can make and, when pairing, only a holder of the secret.
//   - Accept returns only for a live peer. The first message of a link can be
//     replayed, so Accept also waits for the first record, which cannot.
//   - Every length is fixed or bounded before it is read, and the first error
//     destroys the state and closes the connection.
//   - In the steady state neither direction allocates.
package noiseconn
