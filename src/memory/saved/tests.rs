// SPDX-License-Identifier: Apache-2.0
//! Memory saved and mapped again, on real mappings and files.

use super::held::both;
use super::*;
use crate::memory::{self, GuestRam};
use proptest::prelude::*;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use vm_memory::{
    Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress,
};

const HOLE: Range<u64> = 0x10_0000..0x20_0000;
const PAGES: u64 = 1024;
const SIZE: u64 = PAGES * PAGE;

fn fresh() -> GuestRam {
    memory::anonymous(SIZE, &HOLE).expect("4 MiB")
}

fn address(page: u64) -> GuestAddress {
    let at = page * PAGE;
    GuestAddress(if at < HOLE.start {
        at
    } else {
        at + HOLE.end - HOLE.start
    })
}

fn fill(ram: &GuestRam, page: u64, value: u8) {
    ram.write_slice(&[value; 4096], address(page)).expect("RAM");
}

fn give_up(ram: &GuestRam, page: u64) {
    memory::release(&ram.get_slice(address(page), 4096).expect("RAM"));
}

/// The first byte of each page.
fn seen(ram: &GuestRam) -> Vec<u8> {
    let byte = |page| ram.read_obj::<u8>(address(page)).expect("RAM");
    (0..PAGES).map(byte).collect()
}

fn of(ram: &GuestRam, against: Against) -> Vec<Run> {
    held(ram, &Pagemap::open().expect("/proc"), against).expect("tables")
}

fn save(ram: &GuestRam, runs: &[Run]) -> File {
    let file = tempfile::tempfile().expect("a file");
    write(ram, &file, runs).expect("room");
    file
}

fn whole(file: File) -> Layer {
    Layer { file, runs: None }
}

fn over(ram: &GuestRam) -> Layer {
    let runs = of(ram, Against::Mapped);
    let file = save(ram, &runs);
    Layer {
        file,
        runs: Some(runs),
    }
}

fn again(layers: &[Layer]) -> GuestRam {
    map(layers, SIZE, &HOLE).expect("layers")
}

fn covers(runs: &[Run], page: u64) -> bool {
    runs.iter().any(|run| run.start <= page && page < run.end())
}

#[test]
fn what_was_never_touched_is_not_looked_at() {
    let ram = fresh();
    assert_eq!(of(&ram, Against::Zero), []);
    fill(&ram, 0, 1);
    // The last below the hole, and the first above it.
    fill(&ram, 255, 2);
    fill(&ram, 256, 3);
    fill(&ram, 1023, 4);
    let runs = of(&ram, Against::Zero);
    assert_eq!(runs.iter().map(|run| run.count).sum::<u64>(), 4);
    assert!([0, 255, 256, 1023].iter().all(|page| covers(&runs, *page)));
    let file = save(&ram, &runs);
    let meta = file.metadata().expect("a file");
    assert_eq!(meta.len(), SIZE);
    assert!(meta.blocks() * 512 <= 8 * PAGE, "{} blocks", meta.blocks());
    assert_eq!(seen(&again(&[whole(file)])), seen(&ram));
}

#[test]
fn a_page_of_zeros_is_a_hole_and_hides_what_is_below() {
    let ram = fresh();
    (0..8).for_each(|page| fill(&ram, page, 7));
    let base = save(&ram, &of(&ram, Against::Zero));
    let child = again(&[whole(base.try_clone().expect("a file"))]);
    fill(&child, 3, 0);
    let layer = over(&child);
    assert_eq!(
        layer.runs.as_deref(),
        Some(&[Run { start: 3, count: 1 }][..])
    );
    assert_eq!(layer.file.metadata().expect("a file").blocks(), 0);
    let grandchild = again(&[whole(base), layer]);
    assert_eq!(seen(&grandchild)[..8], [7, 7, 7, 0, 7, 7, 7, 7]);
}

/// Free page reporting and the balloon.
#[test]
fn what_a_guest_gave_up_is_zero_or_what_it_was_saved_with() {
    let ram = fresh();
    (0..4).for_each(|page| fill(&ram, page, 1));
    give_up(&ram, 2);
    assert_eq!(seen(&ram)[..4], [1, 1, 0, 1]);
    let runs = of(&ram, Against::Zero);
    assert!(!covers(&runs, 2) || seen(&ram)[2] == 0);
    let base = save(&ram, &runs);

    let child = again(&[whole(base.try_clone().expect("a file"))]);
    (0..4).for_each(|page| fill(&child, page, 9));
    give_up(&child, 0);
    give_up(&child, 2);
    // Nothing of what it wrote since; another clone sees none of it either.
    assert_eq!(seen(&child)[..4], [1, 9, 0, 9]);
    let runs = of(&child, Against::Zero);
    assert_eq!(seen(&again(&[whole(save(&child, &runs))])), seen(&child));
    let layer = over(&child);
    let clone = again(&[whole(base.try_clone().expect("a file")), layer]);
    assert_eq!(seen(&clone)[..4], [1, 9, 0, 9]);
    assert_eq!(seen(&again(&[whole(base)]))[..4], [1, 1, 0, 1]);
}

#[test]
fn a_kernel_that_was_mapped_and_not_touched_is_saved() {
    let ram = fresh();
    let kernel = tempfile::tempfile().expect("a file");
    let bytes = vec![5; 4 * 4096];
    std::os::unix::fs::FileExt::write_all_at(&kernel, &bytes, 0).expect("room");
    memory::place(&ram, &kernel, 0, address(300), 4 * PAGE).expect("inside");
    let runs = of(&ram, Against::Zero);
    assert_eq!(
        runs,
        [Run {
            start: 300,
            count: 4
        }]
    );
    let restored = again(&[whole(save(&ram, &runs))]);
    assert_eq!(seen(&restored)[299..305], [0, 5, 5, 5, 5, 0]);
}

#[test]
fn holes_of_the_base_stay_holes_and_untouched_data_is_read() {
    let ram = fresh();
    fill(&ram, 17, 1);
    fill(&ram, 700, 2);
    let base = save(&ram, &of(&ram, Against::Zero));
    let child = again(&[whole(base)]);
    assert_eq!(of(&child, Against::Mapped), []);
    let runs = of(&child, Against::Zero);
    assert!(covers(&runs, 17) && covers(&runs, 700));
    assert!(
        runs.iter().map(|run| run.count).sum::<u64>() < 64,
        "{runs:?}"
    );
    // Reading brings in no page of its own.
    assert_eq!(seen(&child)[700], 2);
    assert_eq!(of(&child, Against::Mapped), []);
    assert_eq!(seen(&again(&[whole(save(&child, &runs))])), seen(&ram));
}

#[test]
fn what_does_not_fit_is_refused() {
    let ram = fresh();
    let file = || save(&ram, &[]);
    let layer = |start, count| Layer {
        file: file(),
        runs: Some(vec![Run { start, count }]),
    };
    let refused = |layers: &[Layer]| map(layers, SIZE, &HOLE).is_err();
    assert!(refused(&[]), "nothing to begin with");
    assert!(refused(&[layer(0, 1)]), "no whole layer");
    assert!(refused(&[whole(file()), layer(PAGES, 1)]));
    assert!(refused(&[whole(file()), layer(u64::MAX, 2)]));
    assert!(refused(&[whole(file()), layer(5, 0)]));
    let short = file();
    short.set_len(SIZE - PAGE).expect("a file");
    assert!(refused(&[whole(short)]));
    assert!(!refused(&[whole(file()), layer(PAGES - 1, 1)]));
    let swapped = Layer {
        file: file(),
        runs: Some(vec![Run { start: 4, count: 1 }, Run { start: 4, count: 1 }]),
    };
    assert!(refused(&[whole(file()), swapped]));
}

#[test]
fn a_layer_is_of_no_more_pieces_than_can_be_mapped() {
    const MANY: u64 = 65_536;
    let ram = memory::anonymous(MANY * PAGE, &(1 << 40..1 << 41)).expect("256 MiB");
    // Farther apart than what is joined anyway.
    (0..MANY).step_by(8).for_each(|page| {
        ram.write_obj(1u8, GuestAddress(page * PAGE)).expect("RAM");
    });
    let runs = of(&ram, Against::Mapped);
    assert!(
        runs.len() <= 4096 && in_order(&runs, MANY),
        "{}",
        runs.len()
    );
    assert!((0..MANY).step_by(8).all(|page| covers(&runs, page)));
}

#[test]
fn writing_to_a_full_disk_fails() {
    let ram = fresh();
    fill(&ram, 1, 1);
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let error = write(&ram, &full, &of(&ram, Against::Zero)).expect_err("no room");
    assert!(matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::InvalidInput
    ));
}

#[derive(Clone, Debug)]
enum Act {
    Fill(u64, u8),
    GiveUp(u64),
    Read(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let page = 0..PAGES;
    let act = prop_oneof![
        4 => (page.clone(), 0..4u8).prop_map(|(page, value)| Act::Fill(page, value)),
        1 => page.clone().prop_map(Act::GiveUp),
        1 => page.prop_map(Act::Read),
    ];
    proptest::collection::vec(act, 0..80)
}

fn carry_out(ram: &GuestRam, acts: &[Act]) {
    for act in acts {
        match *act {
            Act::Fill(page, value) => fill(ram, page, value),
            Act::GiveUp(page) => give_up(ram, page),
            Act::Read(page) => drop(ram.read_obj::<u8>(address(page)).expect("RAM")),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest did, in a machine and in those restored from it.
    #[test]
    fn a_chain_of_layers_is_the_memory(generations in proptest::collection::vec(acts(), 1..5)) {
        let mut ram = fresh();
        let mut layers = Vec::new();
        for (index, acts) in generations.iter().enumerate() {
            carry_out(&ram, acts);
            let runs = of(&ram, Against::Zero);
            prop_assert!(in_order(&runs, PAGES));
            let flat = again(&[whole(save(&ram, &runs))]);
            prop_assert_eq!(seen(&flat), seen(&ram));
            layers.push(match index {
                0 => whole(save(&ram, &runs)),
                _ => over(&ram),
            });
            let restored = again(&layers);
            prop_assert_eq!(seen(&restored), seen(&ram));
            ram = restored;
        }
    }

    #[test]
    fn both_ways_of_asking_agree(first in acts(), second in acts()) {
        let ram = fresh();
        carry_out(&ram, &first);
        let restored = again(&[whole(save(&ram, &of(&ram, Against::Zero)))]);
        carry_out(&restored, &second);
        for ram in [ram, restored] {
            for region in ram.iter() {
                let host = region.get_host_address(MemoryRegionAddress(0)).expect("RAM");
                let host = host.addr() as u64;
                let (scanned, looked) = both::ask(&(host..host + region.len()), host / PAGE);
                // A page that was only read is the kernel's page of zeros, which one way knows.
                let zero = |page: u64| {
                    let at = MemoryRegionAddress(page * PAGE);
                    region.read_obj::<u8>(at).expect("RAM") == 0
                };
                for page in 0..region.len() / PAGE {
                    let (one, other) = (covers(&scanned, page), covers(&looked, page));
                    prop_assert!(one == other || (other && zero(page)), "page {}", page);
                }
            }
        }
    }
}

#[test]
fn a_working_set_is_what_was_written_and_brings_it_in_for_another() {
    let ram = fresh();
    (0..PAGES).for_each(|page| fill(&ram, page, 1));
    let base = save(&ram, &of(&ram, Against::Zero));
    let clone = || again(&[whole(base.try_clone().expect("a file"))]);
    let first = clone();
    for page in [3, 4, 255, 256, 900] {
        fill(&first, page, 2);
    }
    assert_eq!(seen(&first)[700], 1, "read only");
    let pagemap = Pagemap::open().expect("/proc");
    let set = working_set(&first, &pagemap).expect("tables");
    let pages: Vec<u64> = set.iter().flat_map(|run| run.start..run.end()).collect();
    assert_eq!(pages, [3, 4, 255, 256, 900]);
    assert!(is_working_set(&set, &first));

    let second = clone();
    prefetch(&second, &set, Want::Write);
    assert_eq!(working_set(&second, &pagemap).expect("tables"), set);
    assert_eq!(seen(&second), seen(&ram));
    let third = clone();
    prefetch(&third, &set, Want::Read);
    assert_eq!(working_set(&third, &pagemap).expect("tables"), []);

    let run = |start, count| Run { start, count };
    for wrong in [
        &[run(0, PAGES + 1)][..],
        &[run(PAGES, 1)],
        &[run(5, 0)],
        &[run(5, 2), run(6, 1)],
        &[run(u64::MAX, u64::MAX)],
    ] {
        assert!(!is_working_set(wrong, &first), "{wrong:?}");
        prefetch(&first, wrong, Want::Read);
    }
    let many: Vec<Run> = (0..513).map(|index| run(index * 2, 1)).collect();
    assert!(!is_working_set(&many, &first) && is_working_set(&many[..512], &first));
}
