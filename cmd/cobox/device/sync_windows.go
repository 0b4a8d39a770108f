package device

// SyncDir does nothing: Windows makes a rename durable with the file, and
// cannot sync a folder.
func SyncDir(string) error { return nil }
