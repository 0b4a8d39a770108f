package main

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"cobox/cmd/cobox/device"
	"cobox/cmd/cobox/ui"
	"cobox/netlink/noiseconn"
	"cobox/netlink/replicate"
	"cobox/storage/archive"
	"cobox/storage/archive/fstree"
	"cobox/storage/archive/spool"
	"cobox/storage/seal"
)

var errNoBoxes = &ui.Failure{
	Exit: ui.ExitFailed, Code: "no_boxes", What: "this device is paired with no box",
	Hint: "Pair one with 'cobox pair PICTURE-OF-THE-QR', or join one with 'cobox join INVITE'.",
}

// explain turns an error into what the user is told. Errors that need to be
// explained where they arise are Failures already.
func explain(err error) *ui.Failure {
	var f *ui.Failure
	if errors.As(err, &f) {
		return f
	}
	fail := func(code, what, hint string) *ui.Failure {
		return &ui.Failure{Exit: ui.ExitFailed, Code: code, What: what, Hint: hint}
	}
	var locked *device.LockedError
	var phrase *seal.PhraseError
	var refused *replicate.Error
	switch {
	case errors.Is(err, device.ErrNotSetUp):
		return fail("not_set_up", "this device has not been set up", "Run 'cobox init' for a new account, or 'cobox recover' for one that you have.")
	case errors.Is(err, device.ErrExists):
		return fail("exists", "this device has been set up already", "Its account stays as it is. For another account use another --home.")
	case errors.Is(err, device.ErrNewer):
		return fail("newer", "this device's state was written by a newer version of cobox", "Install that version, or a newer one. Nothing was changed.")
	case errors.As(err, &locked):
		return fail("locked", locked.Error(), "Wait until it has ended, or end it, and run this again.")
	case errors.As(err, &phrase):
		return phraseFailure(phrase)
	case errors.Is(err, seal.ErrPhraseLength), errors.Is(err, seal.ErrPhraseChecksum):
		return fail("phrase", rootCause(err).Error(), "Compare it word by word with what you wrote down.")
	case errors.Is(err, spool.ErrSpoolFull):
		return &ui.Failure{Exit: ui.ExitNoBox, Code: "spool_full", What: "no box is reachable and the space for backups that wait on this computer is used up",
			Hint: "Bring a box into reach and run the backup again: it goes on where it stopped."}
	case errors.Is(err, fstree.ErrNotEmpty):
		return fail("not_empty", "the target is not empty", "Give --overwrite always, if-changed or never, or a new folder.")
	case errors.Is(err, archive.ErrUnavailable), errors.Is(err, archive.ErrNewestCommit):
		return &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: "this cannot go on without a box that is not reachable now", Err: err,
			Hint: "Bring it into reach and run the same command again. It holds what is needed to read earlier backups."}
	case errors.Is(err, syscall.ENOSPC):
		return &ui.Failure{Exit: ui.ExitFailed, Code: "disk_full", What: "the disk of this computer is full", Err: err, Hint: "Make room and run this again: it goes on where it stopped."}
	case errors.Is(err, fs.ErrPermission):
		return &ui.Failure{Exit: ui.ExitFailed, Code: "permission", What: err.Error(), Hint: "This user may not do that; see who owns the file or folder."}
	case errors.As(err, &refused):
		return refusal("", refused)
	case errors.Is(err, noiseconn.ErrNoAnswer):
		return &ui.Failure{Exit: ui.ExitNoBox, Code: "no_box", What: "the box hung up", Err: err, Hint: hangUpHint}
	}
	return ui.AsFailure(err)
}

const hangUpHint = "It hangs up on whoever it does not know: this device or its member may have been removed.\nAsk the box's administrator for an invite."

const waitingHint = "The box is on and can be reached, but its data cannot: it takes in and gives back nothing until then.\nNothing is lost. Its administrator sees more with 'cobox box status'."

func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// refusal explains a no of a box.
func refusal(box string, e *replicate.Error) *ui.Failure {
	who := "the box"
	if box != "" {
		who = fmt.Sprintf("box %q", box)
	}
	f := &ui.Failure{Exit: ui.ExitFailed, Code: "refused", What: who + " refused: " + e.Code.String()}
	if e.Message != "" {
		f.What += ": " + ui.Printable(e.Message)
	}
	switch e.Code {
	case replicate.CodeInvalid:
		if e.Message != "" {
			f.What = who + " refused: " + ui.Printable(e.Message)
		}
	case replicate.CodeQuota:
		f.Code, f.What = "quota", who+" takes no more: your quota is used up"
		f.Hint = "What is there stays and can be restored. Ask the box's administrator for more; then run the backup again: it goes on."
	case replicate.CodeNoSpace:
		f.Code, f.What = "no_space", "the disk of "+who+" is full"
		f.Hint = "What is there stays and can be restored. Once there is room, run the backup again: it goes on."
	case replicate.CodeReadOnly:
		f.Code, f.What = "read_only", who+" takes in nothing because its disk makes errors; it still serves restores"
		f.Hint = "Have the disk replaced. 'cobox box status' tells more."
	case replicate.CodeNotAllowed:
		f.Code = "not_allowed"
		f.Hint = "Only an administrator of the box may do this, or the box no longer knows this device."
	case replicate.CodeWaiting:
		f.Exit, f.Code, f.What = ui.ExitNoBox, "box_waiting", who+" waits for its data"
		if e.Message != "" {
			f.What += ": " + ui.Printable(e.Message)
		}
		f.Hint = waitingHint
	case replicate.CodeBusy, replicate.CodeShutdown:
		f.Code = "busy"
		f.Hint = "Try again in a minute."
	case replicate.CodeFrozen:
		f.Code, f.What = "forked", who+" has frozen this device's log: two different versions of it exist"
		f.Hint = "Was this device's state copied to a second computer? Keep one of them and set the other up with 'cobox recover'."
	}
	return f
}

func phraseFailure(e *seal.PhraseError) *ui.Failure {
	f := &ui.Failure{Exit: ui.ExitFailed, Code: "phrase", What: fmt.Sprintf("word %d of the recovery phrase, %q, is not in the list", e.Word, e.Got)}
	switch len(e.Suggestions) {
	case 0:
		f.Hint = "Look at what you wrote down: every word is a common English one."
	case 1:
		f.Hint = fmt.Sprintf("Did you mean %q?", e.Suggestions[0])
	default:
		f.Hint = fmt.Sprintf("Did you mean one of %q?", e.Suggestions)
	}
	return f
}
