package archive

func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpChanged:
		return "changed while reading"
	case OpVanished:
		return "vanished"
	case OpDamaged:
		return "damaged"
	case OpWrite:
		return "write"
	case OpMeta:
		return "set attributes"
	}
	return "unknown"
}
