//! Where the fields of kernel structures are, out of the kernel's own type information.
//!
//! Only structures, their members and names are read; every other kind is skipped by its length. The format is
//! `Documentation/bpf/btf.rst` (6.18), in the byte order of the machine.

const MAGIC: u16 = 0xeb9f;

/// Length of `struct btf_type`, before what its kind appends.
const TYPE: usize = 12;

/// Length of `struct btf_member`.
const MEMBER: usize = 12;

/// The type information of a kernel.
#[derive(Debug)]
pub(super) struct Btf<'bytes> {
    types: &'bytes [u8],
    strings: &'bytes [u8],
}

/// The kinds that are told apart (`include/uapi/linux/btf.h`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

impl<'bytes> Btf<'bytes> {
    /// Finds the sections; `None` if this is no type information.
    pub(super) fn parse(bytes: &'bytes [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*bytes.first_chunk()?);
        if magic != MAGIC {
            return None;
        }
        let header_len = number(bytes, 4)?;
        let section = |offset, len| {
            let start = header_len.checked_add(number(bytes, offset)?)?;
            bytes.get(start..start.checked_add(number(bytes, len)?)?)
        };
        Some(Self {
            types: section(8, 12)?,
            strings: section(16, 20)?,
        })
    }

    /// Bytes from the start of a structure to one of its members; `None` if there is no such member on a whole byte.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let mut rest = self.types;
        while !rest.is_empty() {
            let info = word(rest, 4)?;
            let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
            let (head, tail) = rest.split_at_checked(TYPE + appended(kind, count))?;
            rest = tail;
            if kind == kind::STRUCT && self.is_called(head, structure) {
                // Where bit fields exist, the upper byte of an offset is their width.
                let mask = if info >> 31 == 1 {
                    0x00ff_ffff
                } else {
                    u32::MAX
                };
                let found = head
                    .get(TYPE..)?
                    .chunks_exact(MEMBER)
                    .find(|candidate| self.is_called(candidate, member));
                if let Some(found) = found {
                    let bits = word(found, 8)? & mask;
                    return bits.is_multiple_of(8).then_some(bits / 8);
                }
            }
        }
        None
    }

    /// Whether the entry, whose first word is the offset of its name, has this name.
    fn is_called(&self, entry: &[u8], name: &str) -> bool {
        number(entry, 0)
            .and_then(|offset| self.strings.get(offset..))
            .and_then(|text| text.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// How many bytes follow the common part of a type.
fn appended(kind: u32, count: usize) -> usize {
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION => MEMBER * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        kind::DATASEC | kind::ENUM64 => 12 * count,
        _ => 0,
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map(|bytes| u32::from_ne_bytes(*bytes))
}

fn number(bytes: &[u8], offset: usize) -> Option<usize> {
    usize::try_from(word(bytes, offset)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int x; struct pair { int first; int second; }`, as a compiler would emit it.
    fn sample(flag: bool) -> Vec<u8> {
        let strings = b"\0int\0pair\0first\0second\0";
        let (int, pair, first, second) = (1_u32, 5_u32, 10_u32, 16_u32);
        let structure = kind::STRUCT << 24 | 2 | u32::from(flag) << 31;
        // A bit field's width stands above its offset where the flag is set.
        let width = if flag { 32 << 24 } else { 0 };
        let types: Vec<u8> = [
            [int, kind::INT << 24, 4].as_slice(),
            &[0x20],
            &[pair, structure, 8],
            &[first, 1, 0],
            &[second, 1, 32 | width],
        ]
        .concat()
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, len(&types), len(&types), len(strings)] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_by_name() {
        for flag in [false, true] {
            let bytes = sample(flag);
            let btf = Btf::parse(&bytes).unwrap();
            assert_eq!(btf.offset("pair", "first"), Some(0));
            assert_eq!(btf.offset("pair", "second"), Some(4));
            assert_eq!(btf.offset("pair", "sec"), None);
            assert_eq!(btf.offset("pai", "first"), None);
        }
    }

    #[test]
    fn every_truncation_is_survived() {
        let bytes = sample(false);
        for len in 0..bytes.len() {
            let found = Btf::parse(&bytes[..len]).and_then(|btf| btf.offset("pair", "second"));
            assert_eq!(found, None, "{len}");
        }
        assert!(Btf::parse(b"\x7fELF").is_none());
    }

    #[test]
    fn the_running_kernel_names_its_sockets_namespace() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("sock_common", "skc_net"), Some(48));
        assert!(btf.offset("net", "ns").is_some());
        assert!(btf.offset("ns_common", "inum").is_some());
    }
}
