// SPDX-License-Identifier: Apache-2.0
//! Integer handlers against the processor.
#![expect(
    unsafe_code,
    reason = "the address of an instruction is taken in assembly"
)]

use super::super::bits::*;
use super::native::code;
use super::world::{World, rounds};

const ROUNDS: usize = 1000;

macro_rules! agree {
    ($defined:expr; $($text:literal),+ $(,)?) => {{
        let mut world = World::new();
        $( rounds(&mut world, code!($text), $defined, ROUNDS, false); )+
    }};
}

#[test]
fn bit_counts() {
    agree!(STATUS; "popcnt rax, rcx", "popcnt eax, ecx", "popcnt ax, cx",
        "popcnt r15, qword ptr [rsi + 8]", "popcnt edx, dword ptr [rsi - 4]");
    agree!(CF | ZF; "lzcnt rax, rcx", "lzcnt eax, ecx", "lzcnt ax, cx", "lzcnt r9w, word ptr [rsi]",
        "tzcnt rax, rcx", "tzcnt eax, r12d", "tzcnt ax, cx", "tzcnt rdx, qword ptr [rsi + 1]");
    agree!(ZF; "bsf rax, rcx", "bsf eax, ecx", "bsf ax, cx", "bsr rax, rcx", "bsr ax, cx",
        "bsr rbx, qword ptr [rsi]");
}

#[test]
fn bmi() {
    agree!(SF | ZF | CF | OF; "andn rax, rcx, rdx", "andn eax, ecx, dword ptr [rsi]",
        "blsi rax, rcx", "blsi eax, ecx", "blsmsk rax, rcx", "blsmsk eax, ecx",
        "blsr rax, rcx", "blsr eax, dword ptr [rsi]", "bzhi rax, rcx, rdx", "bzhi eax, ecx, edx");
    agree!(ZF | CF | OF; "bextr rax, rcx, rdx", "bextr eax, ecx, edx",
        "bextr rax, qword ptr [rsi], rbx");
    agree!(STATUS; "shlx rax, rcx, rdx", "shlx eax, ecx, edx", "shrx rax, rcx, rdx",
        "shrx eax, ecx, edx", "sarx rax, rcx, rdx", "sarx eax, ecx, edx", "rorx rax, rcx, 13",
        "rorx eax, ecx, 13", "rorx eax, dword ptr [rsi], 0", "pdep rax, rcx, rdx",
        "pdep eax, ecx, edx", "pext rax, rcx, rdx", "pext eax, ecx, dword ptr [rsi]",
        "mulx rax, rcx, rbx", "mulx eax, ecx, ebx", "mulx rax, rax, qword ptr [rsi]");
}

#[test]
fn carries_and_checksums() {
    agree!(STATUS; "adcx rax, rcx", "adcx eax, ecx", "adox rax, qword ptr [rsi]",
        "adox eax, ecx", "crc32 rax, rcx", "crc32 eax, ecx", "crc32 eax, cx", "crc32 eax, cl",
        "crc32 eax, bh", "crc32 rax, byte ptr [rsi]", "crc32 rax, qword ptr [rsi]");
}

#[test]
fn moves() {
    agree!(STATUS; "movbe rax, qword ptr [rsi]", "movbe eax, dword ptr [rsi]",
        "movbe ax, word ptr [rsi]", "movbe qword ptr [rsi], rcx", "movbe dword ptr [rsi], ecx",
        "movbe word ptr [rsi], cx", "bswap rax", "bswap r9d", "movnti qword ptr [rsi], rcx",
        "movnti dword ptr [rsi + 3], r8d");
}

#[test]
fn exchanges() {
    agree!(STATUS; "xadd rax, rcx", "xadd eax, ecx", "xadd ax, cx", "xadd al, ch", "xadd rbx, rbx",
        "xadd qword ptr [rsi], rcx", "lock xadd dword ptr [rsi + 4], ecx",
        "lock xadd byte ptr [rsi + 5], cl", "lock xadd word ptr [rsi + 2], r8w");
    agree!(STATUS; "cmpxchg rbx, rcx", "cmpxchg ebx, ecx", "cmpxchg bl, ch", "cmpxchg bx, cx",
        "cmpxchg rax, rcx", "cmpxchg eax, ecx",
        "cmpxchg qword ptr [rsi], rcx", "lock cmpxchg dword ptr [rsi + 4], ecx",
        "lock cmpxchg byte ptr [rsi + 5], cl");
}

#[test]
fn a_compare_exchange_that_matches() {
    use super::native::Area;
    use super::world::{Random, Trial};
    let mut world = World::new();
    let mut random = Random(77);
    let codes = [
        (code!("lock cmpxchg16b [rsi]"), 8),
        (code!("cmpxchg16b [rsi]"), 8),
        (code!("lock cmpxchg8b [rsi]"), 4),
        (code!("lock cmpxchg qword ptr [rsi], rcx"), 8),
        (code!("lock cmpxchg dword ptr [rsi], ecx"), 8),
    ];
    for (code, half) in codes {
        for round in 0..ROUNDS {
            let mut gpr = [0; 16].map(|_: u64| random.edgy());
            gpr[6] = world.data + 64;
            gpr[4] = 0;
            let mut there = gpr[0].to_le_bytes()[..half].to_vec();
            there.extend(&gpr[2].to_le_bytes()[..half]);
            if round % 3 == 0 {
                there[round % 7] ^= 1 << (round & 7);
            }
            world.poke(64, &there);
            let rflags = 2 | random.next() & STATUS;
            let mut state = Area::zeroed();
            state.0[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
            Trial {
                world: &mut world,
                code,
                gpr,
                rflags,
                state: &state,
                defined: STATUS,
                memory: 512,
            }
            .agree();
        }
    }
}
