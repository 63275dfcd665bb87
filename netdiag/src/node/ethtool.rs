//! What links carry, by ethtool's netlink (`net/ethtool/linkmodes.c`), which kernels have since 5.6. The
//! interfaces of the calling thread's namespace are asked.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netlink::{self, text};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`
/// (`include/uapi/linux/genetlink.h`).
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `ETHTOOL_MSG_LINKMODES_GET` and the attributes of its answer
/// (`include/uapi/linux/ethtool_netlink.h`).
const GET_LINK_MODES: u8 = 4;
const HEADER: u16 = 1;
const HEADER_INDEX: u16 = 1;
const SPEED: u16 = 5;

/// `struct genlmsghdr`.
const GENERIC_BYTES: usize = 4;

/// Speeds in bits per second by index of the interface; those that say none are absent.
///
/// # Errors
/// Those of netlink.
pub fn read() -> io::Result<Vec<(u32, u64)>> {
    // One family by its name would have the kernel look for a module where there is none.
    let mut family = None;
    ask(CONTROL, GET_FAMILY, 1, |_, attributes| {
        family = family.or_else(|| ethtool(attributes));
        true
    })?;
    let mut speeds = Vec::new();
    if let Some(family) = family {
        ask(family, GET_LINK_MODES, 2, |kind, attributes| {
            speeds.extend(speed(attributes));
            kind == family
        })?;
    }
    Ok(speeds)
}

fn ask(
    family: u16,
    command: u8,
    sequence: u32,
    mut each: impl FnMut(u16, &[u8]) -> bool,
) -> io::Result<()> {
    // An empty header, which ethtool wants: of all interfaces.
    const BODY: [u8; 8] = [0, 1, 0, 0, 4, 0, HEADER as u8, 0x80];
    let mut body = BODY;
    body[0] = command;
    let length = if family == CONTROL { GENERIC_BYTES } else { body.len() };
    let request = netlink::request(family, NLM_F_DUMP, sequence, &body[..length]);
    netlink::dump(NETLINK_GENERIC, &request, sequence, |kind, payload| {
        payload.get(GENERIC_BYTES..).is_some_and(|attributes| each(kind, attributes))
    })?;
    Ok(())
}

/// The number of the family, if this one is ethtool.
fn ethtool(attributes: &[u8]) -> Option<u16> {
    let (mut id, mut is_it) = (None, false);
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        match attribute.kind() {
            FAMILY_ID => id = attribute.value().try_into().ok().map(u16::from_ne_bytes),
            FAMILY_NAME => is_it = text(attribute.value()) == "ethtool",
            _ => {}
        }
    }
    id.filter(|_| is_it)
}

/// Index and bits per second; `SPEED_UNKNOWN` is all ones.
fn speed(attributes: &[u8]) -> Option<(u32, u64)> {
    let number = |value: &[u8]| value.try_into().ok().map(u32::from_ne_bytes);
    let (mut index, mut megabits) = (None, None);
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        match attribute.kind() {
            HEADER => {
                let mut inner = NlasIterator::new(attribute.value()).map_while(Result::ok);
                index = inner
                    .find(|one| one.kind() == HEADER_INDEX)
                    .and_then(|one| number(one.value()));
            }
            SPEED => megabits = number(attribute.value()),
            _ => {}
        }
    }
    let megabits = megabits.filter(|megabits| !matches!(*megabits, 0 | u32::MAX))?;
    Some((index?, u64::from(megabits) * 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_and_speed() {
        let family = [&[6, 0, 1, 0, 21, 0, 0, 0, 12, 0, 2, 0][..], b"ethtool\0"].concat();
        assert_eq!(ethtool(&family), Some(21));
        assert_eq!(ethtool(&[&family[..12], b"devlink\0"].concat()), None);
        let modes = |megabits: u32| {
            let header = [12, 0, 1, 0x80, 8, 0, 1, 0, 2, 0, 0, 0];
            [&header[..], &[8, 0, 5, 0], &megabits.to_ne_bytes()].concat()
        };
        assert_eq!(speed(&modes(25_000)), Some((2, 25_000_000_000)));
        for megabits in [0, u32::MAX] {
            assert_eq!(speed(&modes(megabits)), None);
        }
        for end in 0..family.len() {
            let _cut = (ethtool(&family[..end]), speed(&modes(1)[..end.min(20)]));
        }
    }

    #[test]
    fn this_kernel_is_asked() {
        read().unwrap();
    }
}
