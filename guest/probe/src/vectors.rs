// SPDX-License-Identifier: Apache-2.0
//! Vector state across context switches: processes on one CPU that each keep every vector
//! register of this processor live over thousands of switches to the others.
//!
//! A kernel that saves too little (FXSAVE where programs use AVX) corrupts the upper halves
//! silently; here it is an error with the register's name.
#![expect(unsafe_code, reason = "registers held across system calls by hand")]

use std::arch::{asm, is_x86_feature_detected};

/// 32 registers of 64 bytes, and behind them 7 mask registers of 8.
const REGISTERS: usize = 32;
const WIDTH: usize = 64;
const MASKS: usize = 7;
const IMAGE: usize = REGISTERS * WIDTH + MASKS * 8;

#[repr(C, align(64))]
struct Image([u8; IMAGE]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Avx512,
    Avx,
    Sse,
}

impl Level {
    fn of_this_processor() -> Self {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx") {
            Self::Avx
        } else {
            Self::Sse
        }
    }

    /// Registers and bytes of each that exist.
    fn shape(self) -> (usize, usize) {
        match self {
            Self::Avx512 => (32, 64),
            Self::Avx => (16, 32),
            Self::Sse => (16, 16),
        }
    }
}

/// Starts `processes` processes on one CPU, each yielding until all together have caused
/// `switches` switches, and fails if any register of any of them changed.
pub fn check(processes: usize, switches: usize) -> Result<(), String> {
    if processes < 2 {
        return Err("vectors takes two processes or more".to_owned());
    }
    let level = Level::of_this_processor();
    crate::sys::pin()?;
    let rounds = switches.div_ceil(processes);
    let children: Vec<libc::pid_t> = (1..=processes)
        .map(|seed| {
            // SAFETY: this program has one thread, so the child may do anything.
            match unsafe { libc::fork() } {
                -1 => Err(std::io::Error::last_os_error().to_string()),
                0 => std::process::exit(i32::from(live(level, seed, rounds).is_err())),
                child => Ok(child),
            }
        })
        .collect::<Result<_, String>>()?;
    let mut failed = 0;
    for child in children {
        let mut status = 0;
        // SAFETY: waits for a child of ours and writes one integer.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        failed += usize::from(status != 0);
    }
    if failed > 0 {
        return Err(format!(
            "{failed} of {processes} processes lost vector state"
        ));
    }
    println!("{level:?} state of {processes} processes survived {switches} switches");
    Ok(())
}

fn live(level: Level, seed: usize, rounds: usize) -> Result<(), ()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed as u64);
    let mut wanted = Image([0; IMAGE]);
    for byte in &mut wanted.0 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *byte = state.to_le_bytes()[7];
    }
    // Look often enough that a loss is near its cause, seldom enough that most switches happen
    // with the registers loaded once.
    const YIELDS_A_LOOK: usize = 50;
    let mut done = 0;
    while done < rounds {
        let yields = YIELDS_A_LOOK.min(rounds - done);
        let mut found = Image([0; IMAGE]);
        // SAFETY: the processor has the registers of `level`; both images are aligned and live.
        unsafe {
            match level {
                Level::Avx512 => hold_avx512(&wanted, &mut found, yields),
                Level::Avx => hold_avx(&wanted, &mut found, yields),
                Level::Sse => hold_sse(&wanted, &mut found, yields),
            }
        }
        compare(level, &wanted, &found)?;
        done += yields;
    }
    Ok(())
}

fn compare(level: Level, wanted: &Image, found: &Image) -> Result<(), ()> {
    let (registers, width) = level.shape();
    let mut parts: Vec<(String, std::ops::Range<usize>)> = (0..registers)
        .map(|index| {
            (
                format!("vector {index}"),
                index * WIDTH..index * WIDTH + width,
            )
        })
        .collect();
    if level == Level::Avx512 {
        parts.extend((0..MASKS).map(|index| {
            let start = REGISTERS * WIDTH + index * 8;
            (format!("mask {}", index + 1), start..start + 8)
        }));
    }
    for (name, range) in parts {
        if wanted.0[range.clone()] != found.0[range] {
            eprintln!("husk-probe: {name} changed across a context switch");
            return Err(());
        }
    }
    Ok(())
}

/// Loads registers with `$load`, yields, and stores them with `$store`.
macro_rules! hold {
    ($name:ident, $feature:literal, [$($load:literal),*], [$($store:literal),*], $($clobber:tt)*) => {
        #[target_feature(enable = $feature)]
        unsafe fn $name(from: &Image, to: &mut Image, yields: usize) {
            // SAFETY: reads `from` and writes `to`, both whole images; every register written is
            // declared, and sched_yield(2) (24) changes rax, rcx and r11 only.
            unsafe {
                asm!(
                    $($load,)*
                    "2:",
                    "mov eax, 24",
                    "syscall",
                    "dec {yields}",
                    "jnz 2b",
                    $($store,)*
                    from = in(reg) from.0.as_ptr(),
                    to = in(reg) to.0.as_mut_ptr(),
                    yields = inout(reg) yields => _,
                    out("rax") _, out("rcx") _, out("r11") _,
                    $($clobber)*
                );
            }
        }
    };
}

hold!(
    hold_avx512,
    "avx512f,avx512bw",
    ["vmovdqu64 zmm0, [{from} + 0]", "vmovdqu64 zmm1, [{from} + 64]", "vmovdqu64 zmm2, [{from} + 128]", "vmovdqu64 zmm3, [{from} + 192]", "vmovdqu64 zmm4, [{from} + 256]", "vmovdqu64 zmm5, [{from} + 320]", "vmovdqu64 zmm6, [{from} + 384]", "vmovdqu64 zmm7, [{from} + 448]", "vmovdqu64 zmm8, [{from} + 512]", "vmovdqu64 zmm9, [{from} + 576]", "vmovdqu64 zmm10, [{from} + 640]", "vmovdqu64 zmm11, [{from} + 704]", "vmovdqu64 zmm12, [{from} + 768]", "vmovdqu64 zmm13, [{from} + 832]", "vmovdqu64 zmm14, [{from} + 896]", "vmovdqu64 zmm15, [{from} + 960]", "vmovdqu64 zmm16, [{from} + 1024]", "vmovdqu64 zmm17, [{from} + 1088]", "vmovdqu64 zmm18, [{from} + 1152]", "vmovdqu64 zmm19, [{from} + 1216]", "vmovdqu64 zmm20, [{from} + 1280]", "vmovdqu64 zmm21, [{from} + 1344]", "vmovdqu64 zmm22, [{from} + 1408]", "vmovdqu64 zmm23, [{from} + 1472]", "vmovdqu64 zmm24, [{from} + 1536]", "vmovdqu64 zmm25, [{from} + 1600]", "vmovdqu64 zmm26, [{from} + 1664]", "vmovdqu64 zmm27, [{from} + 1728]", "vmovdqu64 zmm28, [{from} + 1792]", "vmovdqu64 zmm29, [{from} + 1856]", "vmovdqu64 zmm30, [{from} + 1920]", "vmovdqu64 zmm31, [{from} + 1984]", "kmovq k1, [{from} + 2048]", "kmovq k2, [{from} + 2056]", "kmovq k3, [{from} + 2064]", "kmovq k4, [{from} + 2072]", "kmovq k5, [{from} + 2080]", "kmovq k6, [{from} + 2088]", "kmovq k7, [{from} + 2096]"],
    ["vmovdqu64 [{to} + 0], zmm0", "vmovdqu64 [{to} + 64], zmm1", "vmovdqu64 [{to} + 128], zmm2", "vmovdqu64 [{to} + 192], zmm3", "vmovdqu64 [{to} + 256], zmm4", "vmovdqu64 [{to} + 320], zmm5", "vmovdqu64 [{to} + 384], zmm6", "vmovdqu64 [{to} + 448], zmm7", "vmovdqu64 [{to} + 512], zmm8", "vmovdqu64 [{to} + 576], zmm9", "vmovdqu64 [{to} + 640], zmm10", "vmovdqu64 [{to} + 704], zmm11", "vmovdqu64 [{to} + 768], zmm12", "vmovdqu64 [{to} + 832], zmm13", "vmovdqu64 [{to} + 896], zmm14", "vmovdqu64 [{to} + 960], zmm15", "vmovdqu64 [{to} + 1024], zmm16", "vmovdqu64 [{to} + 1088], zmm17", "vmovdqu64 [{to} + 1152], zmm18", "vmovdqu64 [{to} + 1216], zmm19", "vmovdqu64 [{to} + 1280], zmm20", "vmovdqu64 [{to} + 1344], zmm21", "vmovdqu64 [{to} + 1408], zmm22", "vmovdqu64 [{to} + 1472], zmm23", "vmovdqu64 [{to} + 1536], zmm24", "vmovdqu64 [{to} + 1600], zmm25", "vmovdqu64 [{to} + 1664], zmm26", "vmovdqu64 [{to} + 1728], zmm27", "vmovdqu64 [{to} + 1792], zmm28", "vmovdqu64 [{to} + 1856], zmm29", "vmovdqu64 [{to} + 1920], zmm30", "vmovdqu64 [{to} + 1984], zmm31", "kmovq [{to} + 2048], k1", "kmovq [{to} + 2056], k2", "kmovq [{to} + 2064], k3", "kmovq [{to} + 2072], k4", "kmovq [{to} + 2080], k5", "kmovq [{to} + 2088], k6", "kmovq [{to} + 2096], k7"],
    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _, out("k1") _, out("k2") _, out("k3") _, out("k4") _, out("k5") _, out("k6") _, out("k7") _,
);
hold!(
    hold_avx,
    "avx",
    ["vmovdqu ymm0, [{from} + 0]", "vmovdqu ymm1, [{from} + 64]", "vmovdqu ymm2, [{from} + 128]", "vmovdqu ymm3, [{from} + 192]", "vmovdqu ymm4, [{from} + 256]", "vmovdqu ymm5, [{from} + 320]", "vmovdqu ymm6, [{from} + 384]", "vmovdqu ymm7, [{from} + 448]", "vmovdqu ymm8, [{from} + 512]", "vmovdqu ymm9, [{from} + 576]", "vmovdqu ymm10, [{from} + 640]", "vmovdqu ymm11, [{from} + 704]", "vmovdqu ymm12, [{from} + 768]", "vmovdqu ymm13, [{from} + 832]", "vmovdqu ymm14, [{from} + 896]", "vmovdqu ymm15, [{from} + 960]"],
    ["vmovdqu [{to} + 0], ymm0", "vmovdqu [{to} + 64], ymm1", "vmovdqu [{to} + 128], ymm2", "vmovdqu [{to} + 192], ymm3", "vmovdqu [{to} + 256], ymm4", "vmovdqu [{to} + 320], ymm5", "vmovdqu [{to} + 384], ymm6", "vmovdqu [{to} + 448], ymm7", "vmovdqu [{to} + 512], ymm8", "vmovdqu [{to} + 576], ymm9", "vmovdqu [{to} + 640], ymm10", "vmovdqu [{to} + 704], ymm11", "vmovdqu [{to} + 768], ymm12", "vmovdqu [{to} + 832], ymm13", "vmovdqu [{to} + 896], ymm14", "vmovdqu [{to} + 960], ymm15"],
    out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
);
hold!(
    hold_sse,
    "sse2",
    ["movdqu xmm0, [{from} + 0]", "movdqu xmm1, [{from} + 64]", "movdqu xmm2, [{from} + 128]", "movdqu xmm3, [{from} + 192]", "movdqu xmm4, [{from} + 256]", "movdqu xmm5, [{from} + 320]", "movdqu xmm6, [{from} + 384]", "movdqu xmm7, [{from} + 448]", "movdqu xmm8, [{from} + 512]", "movdqu xmm9, [{from} + 576]", "movdqu xmm10, [{from} + 640]", "movdqu xmm11, [{from} + 704]", "movdqu xmm12, [{from} + 768]", "movdqu xmm13, [{from} + 832]", "movdqu xmm14, [{from} + 896]", "movdqu xmm15, [{from} + 960]"],
    ["movdqu [{to} + 0], xmm0", "movdqu [{to} + 64], xmm1", "movdqu [{to} + 128], xmm2", "movdqu [{to} + 192], xmm3", "movdqu [{to} + 256], xmm4", "movdqu [{to} + 320], xmm5", "movdqu [{to} + 384], xmm6", "movdqu [{to} + 448], xmm7", "movdqu [{to} + 512], xmm8", "movdqu [{to} + 576], xmm9", "movdqu [{to} + 640], xmm10", "movdqu [{to} + 704], xmm11", "movdqu [{to} + 768], xmm12", "movdqu [{to} + 832], xmm13", "movdqu [{to} + 896], xmm14", "movdqu [{to} + 960], xmm15"],
    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
);
