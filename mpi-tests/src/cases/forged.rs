//! Handles that were damaged, cut, or forged with a fitting checksum: refused, with nothing read or written beside what
//! they are for, and the rank that owns the memory lives on.

use super::support::*;
use lunasa::{Error, HandleFault, Ldo, Lunasa, RemoteHandle, Section};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use rand::RngExt;

type Bytes = [u8; RemoteHandle::SIZE];

/// Bytes of data of the objects here.
const LEN: usize = 20_000;
const META: usize = 16;

pub fn run(world: &SimpleCommunicator, arguments: &[String]) -> Outcome {
    let seed = seed(world, arguments)?;
    for routes in &choices(arguments) {
        let lunasa = start(world, routes)?;
        let objects = [lunasa.object().zeroed().meta(META).data(LEN)?, {
            let mut object = lunasa.object().meta(META).user(vec![0u8; LEN])?;
            object.wipe()?;
            object
        }];
        for object in &objects {
            damaged_or_cut(world, &lunasa, object)?;
            sealed_forgeries(world, &lunasa, object)?;
            random_forgeries(world, &lunasa, object, seed)?;
            out_of_bounds(world, &lunasa, object)?;
            read_only(world, &lunasa, object)?;
            headers_are_not_written(world, &lunasa, object)?;
            assert!(object.meta::<u8>()?.iter().chain(object.data::<u8>()?).all(|&byte| byte == 0), "it was written");
        }
        drop(objects);
        finish(lunasa)?;
    }
    done(world, "forged")
}

/// The checksum of a handle: as in src/object/handle.rs, which documents the layout used below.
fn seal(mut bytes: Bytes) -> Bytes {
    let mut lanes = [0x243f_6a88_85a3_08d3u64, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];
    let (words, _) = bytes[..96].as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let lane = &mut lanes[number % 4];
        *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    let sum = lanes[0] ^ lanes[1].rotate_left(16) ^ lanes[2].rotate_left(32) ^ lanes[3].rotate_left(48);
    bytes[96..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn word(bytes: &Bytes, at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn with(bytes: &Bytes, at: usize, new: &[u8]) -> Bytes {
    let mut bytes = *bytes;
    bytes[at..at + new.len()].copy_from_slice(new);
    seal(bytes)
}

/// The peer's good handle still works.
#[track_caller]
fn still_good(lunasa: &Lunasa, handle: &RemoteHandle) -> Result<(), Error> {
    let found = lunasa.fetch(handle)?;
    assert_eq!((found.meta_len(), found.data_len()), (META, LEN));
    assert!(found.data::<u8>()?.iter().all(|&byte| byte == 0));
    Ok(())
}

/// Every use of the handle fails; the gets and puts of its whole data, small and large.
fn every_use(lunasa: &Lunasa, handle: &RemoteHandle) -> [Result<(), Error>; 4] {
    [
        lunasa.get_bytes(handle, 0, &mut [0; 100]),
        lunasa.get_bytes(handle, 0, &mut vec![0; LEN]),
        lunasa.put_bytes(&[0; 100], handle, 0),
        lunasa.put_bytes(&vec![0; LEN], handle, 0),
    ]
}

/// A writable handle. What is put through it is what is there already: zeros.
fn writable(object: &Ldo) -> Result<RemoteHandle, Error> {
    // SAFETY: no slice of the object is alive while peers put.
    unsafe { object.handle_mut() }
}

fn damaged_or_cut(world: &SimpleCommunicator, lunasa: &Lunasa, object: &Ldo) -> Result<(), Error> {
    let handles = everybodys(world, lunasa, writable(object)?);
    for peer in peers(lunasa) {
        let good = handles[peer].to_bytes();
        for len in [0, 1, 96, 103] {
            assert!(matches!(refusal(RemoteHandle::from_bytes(&good[..len])), HandleFault::Malformed(_)), "{len}");
        }
        assert!(RemoteHandle::from_bytes(&[&good[..], &[0]].concat()).is_err());
        assert_eq!(RemoteHandle::from_bytes(&good)?, handles[peer]);
        for at in 0..good.len() {
            let mut bytes = good;
            bytes[at] ^= 1 << (at % 8);
            assert!(matches!(refusal(RemoteHandle::from_bytes(&bytes)), HandleFault::Malformed(_)), "byte {at}");
        }
    }
    // One that was damaged in a message of the program's, and came out as a handle unseen.
    let mut bytes = handles[lunasa.rank() as usize].to_bytes();
    bytes[40] ^= 4;
    let mut arrived = handles.clone();
    world.all_gather_into(&bytes[..], &mut arrived[..]);
    for peer in peers(lunasa) {
        for result in every_use(lunasa, &arrived[peer]) {
            assert!(matches!(refusal(result), HandleFault::Malformed(_)));
        }
        assert!(matches!(refusal(lunasa.fetch(&arrived[peer])), HandleFault::Malformed(_)));
        assert!(matches!(refusal(lunasa.start_fetch(&arrived[peer])), HandleFault::Malformed(_)));
        still_good(lunasa, &handles[peer])?;
    }
    meet(world, lunasa);
    Ok(())
}

fn sealed_forgeries(world: &SimpleCommunicator, lunasa: &Lunasa, object: &Ldo) -> Result<(), Error> {
    let handles = everybodys(world, lunasa, writable(object)?);
    for peer in peers(lunasa) {
        let good = handles[peer].to_bytes();
        assert_eq!(seal(good), good, "the checksum here is not the library's");
        let word = |at| word(&good, at);
        let (tag, slot, generation, address) = (word(40), word(48) as u32, (word(48) >> 32) as u32, word(64));
        let forgeries = [
            ("a rank that is not", with(&good, 4, &lunasa.ranks().to_le_bytes())),
            ("another run", with(&good, 8, &(word(8) ^ 1).to_le_bytes())),
            ("a section that is not", with(&good, 17, &[6])),
            ("another type", with(&good, 20, &77u32.to_le_bytes())),
            ("more metadata", with(&good, 24, &(META as u32 + 1).to_le_bytes())),
            ("less data", with(&good, 32, &(LEN as u64 - 1).to_le_bytes())),
            ("more data", with(&good, 32, &(LEN as u64 + 1).to_le_bytes())),
            ("far more data", with(&good, 32, &(1u64 << 40).to_le_bytes())),
            ("all data there can be", with(&good, 32, &u64::MAX.to_le_bytes())),
            ("an older object", with(&good, 40, &(tag - 256).to_le_bytes())),
            ("a younger object", with(&good, 40, &(tag + 256).to_le_bytes())),
            ("another shape", with(&good, 40, &(tag ^ 1).to_le_bytes())),
            ("a third shape", with(&good, 40, &(tag ^ 2).to_le_bytes())),
            ("another region", with(&good, 48, &(slot + 1).to_le_bytes())),
            ("a region far away", with(&good, 48, &u32::MAX.to_le_bytes())),
            ("an older region", with(&good, 52, &generation.wrapping_sub(2).to_le_bytes())),
            ("a younger region", with(&good, 52, &(generation + 2).to_le_bytes())),
            ("a region that is not registered", with(&good, 52, &(generation + 1).to_le_bytes())),
            ("another key", with(&good, 56, &(word(56) as u32 ^ 1).to_le_bytes())),
            ("an address in the data", with(&good, 64, &(address + 64).to_le_bytes())),
            ("an address between", with(&good, 64, &(address + 1).to_le_bytes())),
            ("an address beyond", with(&good, 64, &(address + (1 << 30)).to_le_bytes())),
            ("an address before", with(&good, 64, &(address - (1 << 30)).to_le_bytes())),
            ("the address null", with(&good, 64, &0u64.to_le_bytes())),
            ("the last address", with(&good, 64, &(u64::MAX - 63).to_le_bytes())),
        ];
        for (what, bytes) in forgeries {
            let Ok(forged) = RemoteHandle::from_bytes(&bytes) else { continue };
            // To a device the key is the region: there is nobody who would look at slot and generation.
            if what.contains("region") && lunasa.peers()[peer].route == "verbs" {
                still_good(lunasa, &forged)?;
                continue;
            }
            for result in every_use(lunasa, &forged) {
                assert!(matches!(result, Err(Error::Handle(_))), "{what}: {result:?}");
            }
            // Fetching may also fail for want of room for what the handle promises.
            assert!(lunasa.fetch(&forged).is_err(), "{what}");
            still_good(lunasa, &handles[peer])?;
        }
    }
    meet(world, lunasa);
    Ok(())
}

/// Whatever else is changed, and sealed: it may name the object still, or be refused; nobody crashes or hangs.
fn random_forgeries(world: &SimpleCommunicator, lunasa: &Lunasa, object: &Ldo, seed: u64) -> Result<(), Error> {
    let handles = everybodys(world, lunasa, object.handle()?);
    let mut numbers = numbers(seed, lunasa.rank() as usize, 4711);
    for peer in peers(lunasa) {
        for _ in 0..60 {
            let mut bytes = handles[peer].to_bytes();
            // All but the magic number and the checksum.
            for _ in 0..numbers.random_range(1..4) {
                bytes[numbers.random_range(4..96usize)] = numbers.random();
            }
            let Ok(forged) = RemoteHandle::from_bytes(&seal(bytes)) else { continue };
            let len = numbers.random_range(0..30_000);
            let result = lunasa.get_bytes(&forged, numbers.random_range(0..200), &mut vec![0; len]);
            assert!(matches!(result, Ok(()) | Err(Error::Handle(_) | Error::Transfer { .. })), "{result:?}");
        }
        still_good(lunasa, &handles[peer])?;
    }
    meet(world, lunasa);
    Ok(())
}

fn out_of_bounds(world: &SimpleCommunicator, lunasa: &Lunasa, object: &Ldo) -> Result<(), Error> {
    let handles = everybodys(world, lunasa, writable(object)?);
    for peer in peers(lunasa) {
        let handle = &handles[peer];
        let sections = [(*handle, LEN), (handle.section(Section::Meta), META), (handle.section(Section::Header), 16)];
        for (part, len) in sections {
            for (offset, bytes) in
                [(len, 1), (0, len + 1), (len - 1, 2), (usize::MAX, 1), (usize::MAX - 1, 100), (len + 1, 0)]
            {
                let got = refusal(lunasa.get_bytes(&part, offset, &mut vec![0; bytes]));
                let put = refusal(lunasa.put_bytes(&vec![9; bytes], &part, offset));
                assert!(
                    matches!((&got, &put), (HandleFault::OutOfBounds(_), HandleFault::OutOfBounds(_))),
                    "{got} {put}"
                );
                assert!(got.to_string().contains(&len.to_string()), "the limit is not named: {got}");
            }
            lunasa.get_bytes(&part, len, &mut [])?;
        }
        still_good(lunasa, handle)?;
    }
    meet(world, lunasa);
    Ok(())
}

fn read_only(world: &SimpleCommunicator, lunasa: &Lunasa, object: &Ldo) -> Result<(), Error> {
    let handles = everybodys(world, lunasa, object.handle()?);
    for peer in peers(lunasa) {
        for bytes in [&[9; 10][..], &[9; LEN]] {
            assert_eq!(refusal(lunasa.put_bytes(bytes, &handles[peer], 0)), HandleFault::ReadOnly);
        }
        still_good(lunasa, &handles[peer])?;
    }
    meet(world, lunasa);
    Ok(())
}

fn headers_are_not_written(world: &SimpleCommunicator, lunasa: &Lunasa, object: &Ldo) -> Result<(), Error> {
    let handles = everybodys(world, lunasa, writable(object)?);
    for peer in peers(lunasa) {
        let headers = [
            (Section::Base, 0, 64),
            (Section::Base, 63, 10),
            (Section::LocalHeader, 8, 8),
            (Section::Header, 8, 8),
            (Section::Object, 0, 16 + META + LEN),
            (Section::Object, 15, 1),
        ];
        for (section, offset, len) in headers {
            let put = lunasa.put_bytes(&vec![0; len], &handles[peer].section(section), offset);
            assert!(matches!(refusal(put), HandleFault::OutOfBounds(_)), "{section} {offset} {len}");
        }
        still_good(lunasa, &handles[peer])?;
    }
    meet(world, lunasa);
    Ok(())
}
