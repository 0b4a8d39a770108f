// Package discover finds a box in the local network by its name, by multicast
// DNS (RFC 6762). The box answers for its name and announces nothing: who asks
// must know the name, which comes from the box's key. A box begins with
// [Responder], a device with [Lookup].
//
// An answer is not believed, it is tried: anybody in the network can answer
// anything, and only the box can finish the handshake behind it. So all that an
// answer must not do is to cost much.
//
//   - Messages are read into a buffer of fixed size and parsed without keeping
//     anything but addresses, whose number is bounded.
//   - A box reads so many packets a second and no more, and sends so many
//     answers; what is above that is lost in the kernel's own bounded buffer.
//   - A box only takes in what came by multicast, so from its own network, and
//     it keeps no state about who asked.
//   - A device asks from a port of its own and takes answers to that port, with
//     the number of its question, for the name it asked for.
//
// Libraries for multicast DNS are made to publish services. They read the
// interfaces once, keep what everybody in the network says, and a lookup ends
// with the first of several answers. The messages are therefore read and written
// by golang.org/x/net/dns/dnsmessage, and this package holds only what one name
// needs. PROTOCOL.md beside this file says which part of the RFC that is.
package discover

import (
	"net/netip"
	"time"
)

// Domain is that of names that are asked for by multicast, with its dot.
const Domain = ".local"

// Patience is how long Lookup waits for answers.
const Patience = 3 * time.Second

// port is that of multicast DNS.
const port = 5353

// The groups of multicast DNS.
var (
	group4 = netip.AddrFrom4([4]byte{224, 0, 0, 251})
	group6 = netip.MustParseAddr("ff02::fb")
)
