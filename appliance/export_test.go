package appliance

import "cobox/storage/replica"

// SetStore lets a test put a file system or a disk of its own under the store.
func (c *Config) SetStore(o replica.Options) { c.store = o }
