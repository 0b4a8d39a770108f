package fstree

import (
	"os/user"
	"strconv"
	"sync"
)

// ownerNames looks up the names of users and groups, each once.
type ownerNames struct {
	mu     sync.Mutex
	users  map[uint32]string
	groups map[uint32]string
}

func newOwnerNames() *ownerNames {
	return &ownerNames{users: make(map[uint32]string), groups: make(map[uint32]string)}
}

// fill sets the names of n's owner and group; unknown ones stay empty.
func (o *ownerNames) fill(n *Node) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u, ok := o.users[n.UID]
	if !ok {
		if r, err := user.LookupId(strconv.FormatUint(uint64(n.UID), 10)); err == nil && ownerName(r.Username) {
			u = r.Username
		}
		o.users[n.UID] = u
	}
	g, ok := o.groups[n.GID]
	if !ok {
		if r, err := user.LookupGroupId(strconv.FormatUint(uint64(n.GID), 10)); err == nil && ownerName(r.Name) {
			g = r.Name
		}
		o.groups[n.GID] = g
	}
	n.User, n.Group = u, g
}

// newNode begins a node with what stat data says.
func newNode(name string, st *Stat, o *ownerNames) Node {
	n := Node{
		Kind: st.Kind, Name: name, Mode: st.Mode, UID: st.UID, GID: st.GID,
		ModTime: st.ModTime, Link: st.Link(),
	}
	if st.Kind == BlockDevice || st.Kind == CharDevice {
		n.Device = st.Rdev
	}
	o.fill(&n)
	return n
}
