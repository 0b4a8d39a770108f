package fstree

import (
	"io/fs"
	"syscall"
)

// statSys fills what the portable form of stat data lacks.
func statSys(s *Stat, fi fs.FileInfo) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s.UID, s.GID = st.Uid, st.Gid
		s.Device, s.Inode, s.Links = uint64(st.Dev), st.Ino, uint64(st.Nlink)
		s.ChangeTime = Time{st.Ctimespec.Sec, uint32(st.Ctimespec.Nsec)}
	}
}
