use super::*;
use lifeboat_format::Pfn;

/// Captured swap devices, and nothing else.
struct Captured {
    devices: Vec<SwapDevice>,
    /// What their headers say, as the number of the last page.
    last: Vec<Result<u32, Hole>>,
}

impl Machine for Captured {
    fn memory(&self, _: Pfn, _: &mut [u8; PAGE]) -> Result<(), Hole> {
        Err(Hole::NotCaptured)
    }

    fn swap(&self, device: usize, page: u64, out: &mut [u8; PAGE]) -> Result<(), Hole> {
        assert_eq!(page, 0, "only the header is needed");
        out.fill(0);
        out[1024] = 1;
        out[1028..1032].copy_from_slice(&self.last[device]?.to_le_bytes());
        out[4086..].copy_from_slice(b"SWAPSPACE2");
        Ok(())
    }

    fn swaps(&self) -> &[SwapDevice] {
        &self.devices
    }
}

const MIB: u64 = 1 << 20;

/// Name, MiB, UUID of the partition, last page by the header.
type Listed = (&'static str, u64, Option<&'static str>, Result<u32, Hole>);

fn captured(list: &[Listed]) -> Captured {
    let device = |(name, mib, partuuid, _): &Listed| SwapDevice {
        name: (*name).to_owned(),
        bytes: mib * MIB,
        uuid: None,
        partuuid: partuuid.map(str::to_owned),
    };
    Captured {
        devices: list.iter().map(device).collect(),
        last: list.iter().map(|l| l.3).collect(),
    }
}

fn dead(name: &str, mib: u64, partuuid: Option<&str>) -> Device {
    let partuuid = partuuid.map(str::to_owned);
    Device { name: name.to_owned(), bytes: mib * MIB, partuuid, under: Under::NotCaptured, at: 0 }
}

#[test]
fn a_partition_is_known_by_its_uuid() {
    let machine = captured(&[
        ("vda2", 64, Some("aaaa-01"), Ok(16383)),
        ("vda3", 64, Some("aaaa-02"), Ok(16383)),
    ]);
    let find = |d: &Device| find(&machine, d, Some(16384));
    // The names say otherwise, and do not count.
    assert_eq!(find(&dead("vda2", 64, Some("AAAA-02"))), Some(1));
    assert_eq!(find(&dead("vda2", 64, Some("aaaa-03"))), None);
    // The right UUID, and another size or another header: something else lies there now.
    assert_eq!(find(&dead("vda2", 32, Some("aaaa-02"))), None);
    assert_eq!(super::find(&machine, &dead("vda2", 64, Some("aaaa-02")), Some(9000)), None);
}

#[test]
fn without_a_uuid_size_and_header_must_leave_one() {
    let machine = captured(&[
        ("vdb", 64, None, Ok(16383)),
        ("vdc", 64, None, Ok(9999)),
        ("vdd", 128, None, Ok(32767)),
    ]);
    assert_eq!(find(&machine, &dead("sda", 64, None), Some(16384)), Some(0));
    assert_eq!(find(&machine, &dead("sda", 64, None), Some(10000)), Some(1));
    assert_eq!(find(&machine, &dead("vdd", 64, None), Some(32768)), None);
    assert_eq!(find(&machine, &dead("sda", 128, Some("aaaa-01")), Some(32768)), Some(2));
}

#[test]
fn of_two_that_fit_the_name_decides_or_nothing() {
    let machine =
        captured(&[("vdb", 64, None, Ok(16383)), ("vdc", 64, None, Err(Hole::Unreadable))]);
    assert_eq!(find(&machine, &dead("vdc", 64, None), Some(16384)), Some(1));
    assert_eq!(find(&machine, &dead("sdx", 64, None), Some(16384)), None);
    // A header that was left out, or is garbled, is no witness for it.
    let machine = captured(&[("vdb", 64, None, Err(Hole::Excluded)), ("vdc", 64, None, Ok(0))]);
    assert_eq!(find(&machine, &dead("vdb", 64, None), Some(16384)), None);
}
