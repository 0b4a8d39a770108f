// Package appliance is a whole box: [Run] starts it and returns when it has
// stopped.
//
// The map of what is below:
//
//	appliance/config    settings that a box starts from
//	appliance/datadir   layout of the data directory; the box's identity
//	appliance/roster    who may do what: members, devices, invites, limits
//	appliance/admin     requests and answers of administration, as JSON
//	appliance/machine   what the box asks the first process of an image for
//	appliance/update    a new system, from a member's program to the first process
//	appliance           everything wired together; the box's own time, its
//	                    receipts, its event log, metrics and local pages
//
// and of what it stands on:
//
//	storage/replica     the store of all that the box holds
//	netlink/noiseconn   who is at the other end of a connection
//	netlink/pairing     how somebody becomes a member
//	netlink/replicate   what members and box say to each other
//
// In this package: run.go is the life of a box from the lock on its directory
// to the last flush; links.go serves connections; store.go, authorize.go,
// receipts.go and serve.go are what a session asks the box for; pair.go admits
// members; update.go and selfcheck.go are about the box's system, where it is
// CoBox's own; clock.go and events.go are the box's own memory of time and of what
// happened; metrics.go and pages.go show it; disks.go is where the data lies.
// waiting.go is the other, small life of a box whose data is elsewhere, for which
// members.go keeps who may connect.
//
// Promises: every goroutine belongs to the group of Run and has ended when Run
// returns; nothing but the listener is open before the store is; all memory
// that a peer can make the box use is bounded. METRICS.md lists the metrics.
// The package prints nothing and never ends the process.
package appliance
