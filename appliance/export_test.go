package appliance

import (
	"net"

	"cobox/storage/replica"
)

// SetStore lets a test put a file system or a disk of its own under the store.
func (c *Config) SetStore(o replica.Options) { c.store = o }

// SetInterfaces lets a test say which addresses the machine has.
func (c *Config) SetInterfaces(f func() ([]net.Addr, error)) { c.interfaces = f }
