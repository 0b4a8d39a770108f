package fstree

// A metaWant is what setting metadata needs to know besides the node.
type metaWant struct {
	privileged bool  // may give files away
	owner      owner // that the entry has now
	inherits   bool  // its group comes from the directory, so owner.gid may be wrong
	clean      bool  // it may have attributes already that are to go
}

// A metaSkipped tells what of a node's metadata was not set.
type metaSkipped struct {
	mode   uint16 // that was set, or is to be set
	owner  bool
	setID  bool
	xattrs []error
}

func (t *Target) metaWant(in *TargetDir) metaWant {
	return metaWant{privileged: t.privileged, owner: t.self, inherits: in.stat.Mode&ModeSetGID != 0, clean: in.defaultACL}
}

// metaWantOf is metaWant for an entry that was there before, with what it had.
func (t *Target) metaWantOf(old *Stat) metaWant {
	return metaWant{privileged: t.privileged, owner: owner{old.UID, old.GID}, clean: true}
}

// effectiveMode drops set-id bits that would speak for another owner than the
// one that was recorded: whoever runs such a file acts as its owner.
func effectiveMode(n *Node, ownerSet bool, w metaWant) (mode uint16, dropped bool) {
	mode = n.Mode
	if ownerSet || n.Kind == Directory {
		return mode, false
	}
	if n.UID != w.owner.uid {
		mode &^= ModeSetUID
	}
	if n.GID != w.owner.gid || w.inherits {
		mode &^= ModeSetGID
	}
	return mode, mode != n.Mode
}

func (t *Target) countSkipped(path string, s metaSkipped) {
	if s.owner || s.setID {
		t.count(func(st *TargetStats) {
			if s.owner {
				st.OwnersSkipped++
			}
			if s.setID {
				st.SetIDDropped++
			}
		})
	}
	for _, err := range s.xattrs {
		t.note(NoteXattr, path, err)
	}
}
