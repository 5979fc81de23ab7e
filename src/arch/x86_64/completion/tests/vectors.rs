// SPDX-License-Identifier: Apache-2.0
//! Vector handlers against the processor, with any components in use or not.
#![expect(
    unsafe_code,
    reason = "the address of an instruction is taken in assembly"
)]

use super::super::bits::*;
use super::native::code;
use super::world::{World, rounds};

const ROUNDS: usize = 150;

/// What must be enabled for the group; a processor without it skips the group, aloud.
fn have(bits: u64, what: &str) -> bool {
    let there = super::native::xcr0() & bits == bits;
    if !there {
        eprintln!("SKIPPED: this processor has no {what}");
    }
    there
}

macro_rules! agree {
    ($($text:literal),+ $(,)?) => {{
        let mut world = World::new();
        $( rounds(&mut world, code!($text), STATUS, ROUNDS, true); )+
    }};
}

#[test]
fn sse_moves() {
    agree!(
        "movaps xmm1, xmm9",
        "movaps xmm1, [rsi]",
        "movaps [rsi], xmm3",
        "movups xmm1, [rsi + 1]",
        "movups [rsi + 5], xmm14",
        "movdqa xmm0, [rsi + 16]",
        "movdqa [rsi], xmm0",
        "movdqu xmm8, [rsi + 3]",
        "movdqu [rsi - 7], xmm2",
        "lddqu xmm1, [rsi + 1]",
        "movntdq [rsi], xmm1",
        "movntps [rsi], xmm1",
        "movntdqa xmm3, [rsi]",
        "movd xmm1, ecx",
        "movd xmm1, dword ptr [rsi]",
        "movd eax, xmm1",
        "movd dword ptr [rsi], xmm1",
        "movq xmm1, rcx",
        "movq xmm1, qword ptr [rsi]",
        "movq rax, xmm9",
        "movq qword ptr [rsi], xmm1",
        "movq xmm3, xmm4",
        "movss xmm1, xmm2",
        "movss xmm1, dword ptr [rsi]",
        "movss dword ptr [rsi], xmm1",
        "movsd xmm1, xmm2",
        "movsd xmm1, qword ptr [rsi]",
        "movsd qword ptr [rsi], xmm1",
        "movhps xmm1, [rsi]",
        "movhps [rsi], xmm1",
        "movlpd xmm1, [rsi]",
        "movlpd [rsi], xmm1",
        "movhlps xmm1, xmm2",
        "movlhps xmm1, xmm2",
        "pmovmskb eax, xmm1",
        "movmskps eax, xmm1",
        "movmskpd ecx, xmm1",
        "pextrq rax, xmm1, 1",
        "pextrd dword ptr [rsi], xmm1, 2",
        "pextrw eax, xmm1, 7",
        "pextrb eax, xmm1, 3",
        "pinsrq xmm1, rcx, 1",
        "pinsrd xmm1, dword ptr [rsi], 3",
        "pinsrw xmm1, ecx, 5",
        "pinsrb xmm1, byte ptr [rsi], 15"
    );
}

#[test]
fn sse_logic() {
    agree!(
        "pxor xmm1, xmm1",
        "pxor xmm1, xmm2",
        "pxor xmm1, [rsi]",
        "por xmm1, xmm2",
        "pand xmm1, [rsi]",
        "pandn xmm1, xmm2",
        "xorps xmm1, xmm2",
        "andps xmm1, xmm2",
        "orps xmm1, [rsi]",
        "andnps xmm1, xmm2",
        "xorpd xmm1, xmm2",
        "andpd xmm1, xmm2",
        "paddb xmm1, xmm2",
        "paddw xmm1, xmm2",
        "paddd xmm1, xmm2",
        "paddq xmm1, [rsi]",
        "psubb xmm1, xmm2",
        "psubw xmm1, xmm2",
        "psubd xmm1, xmm2",
        "psubq xmm1, xmm2",
        "pcmpeqb xmm1, xmm2",
        "pcmpeqw xmm1, xmm2",
        "pcmpeqd xmm1, xmm1",
        "pcmpeqq xmm1, [rsi]",
        "pcmpgtb xmm1, xmm2",
        "pcmpgtw xmm1, xmm2",
        "pcmpgtd xmm1, xmm2",
        "pcmpgtq xmm1, xmm2",
        "pminub xmm1, xmm2",
        "pmaxub xmm1, xmm2",
        "pshufb xmm1, xmm2",
        "pshufb xmm1, [rsi]",
        "punpcklbw xmm1, xmm2",
        "punpcklwd xmm1, xmm2",
        "punpckldq xmm1, xmm2",
        "punpcklqdq xmm1, xmm2",
        "punpckhbw xmm1, xmm2",
        "punpckhwd xmm1, xmm2",
        "punpckhdq xmm1, [rsi]",
        "punpckhqdq xmm1, xmm2",
        "unpcklps xmm1, xmm2",
        "pshufd xmm1, xmm2, 0x1b",
        "pshufd xmm1, [rsi], 0x4e",
        "psllw xmm1, 3",
        "pslld xmm1, 31",
        "pslld xmm1, 32",
        "psllq xmm1, 45",
        "psrlw xmm1, 15",
        "psrld xmm1, 9",
        "psrlq xmm1, 64",
        "psraw xmm1, 4",
        "psrad xmm1, 40",
        "pslldq xmm1, 5",
        "psrldq xmm1, 11",
        "psrldq xmm1, 200"
    );
}

#[test]
fn avx() {
    if !have(6, "AVX") {
        return;
    }
    agree!(
        "vmovdqa ymm1, [rsi]",
        "vmovdqa [rsi], ymm1",
        "vmovdqu ymm9, [rsi + 3]",
        "vmovdqu [rsi + 1], ymm2",
        "vmovups ymm1, ymm2",
        "vmovaps xmm1, xmm2",
        "vmovdqu xmm3, [rsi]",
        "vmovntdq [rsi], ymm1",
        "vmovd xmm1, ecx",
        "vmovq xmm1, rcx",
        "vmovq rax, xmm1",
        "vmovq xmm1, xmm2",
        "vmovss xmm1, xmm2, xmm3",
        "vmovss xmm1, dword ptr [rsi]",
        "vmovsd xmm1, xmm2, xmm3",
        "vmovhps xmm1, xmm2, [rsi]",
        "vmovlhps xmm1, xmm2, xmm3",
        "vmovhlps xmm1, xmm2, xmm3",
        "vpinsrq xmm1, xmm2, rcx, 1",
        "vpextrq rax, xmm1, 1",
        "vpmovmskb eax, ymm1",
        "vpxor xmm1, xmm1, xmm1",
        "vpxor ymm1, ymm2, ymm3",
        "vpxor ymm1, ymm2, [rsi + 1]",
        "vpand ymm1, ymm2, ymm3",
        "vpandn ymm1, ymm2, [rsi]",
        "vxorps ymm1, ymm2, ymm3",
        "vandps ymm8, ymm2, ymm3",
        "vpaddd ymm1, ymm2, ymm3",
        "vpsubq ymm1, ymm2, ymm3",
        "vpcmpeqb ymm1, ymm2, [rsi]",
        "vpcmpgtd ymm1, ymm2, ymm3",
        "vpunpcklbw ymm1, ymm2, ymm3",
        "vpunpckhqdq ymm1, ymm2, ymm3",
        "vpshufb ymm1, ymm2, ymm3",
        "vpshufd ymm1, ymm2, 0xb1",
        "vpslld ymm1, ymm2, 7",
        "vpsrlq ymm1, ymm2, 7",
        "vpslldq ymm1, ymm2, 3",
        "vpsrad ymm1, ymm2, 31",
        "vzeroupper",
        "vzeroall"
    );
}

#[test]
fn avx512_without_masks() {
    if !have(0xe6, "AVX-512") {
        return;
    }
    agree!(
        "vmovdqu64 zmm1, [rsi + 1]",
        "vmovdqu64 [rsi + 1], zmm17",
        "vmovdqa64 zmm1, [rsi]",
        "vmovdqu8 zmm30, zmm2",
        "vmovdqa32 ymm18, ymm1",
        "vmovdqu64 xmm31, [rsi]",
        "vmovups zmm20, [rsi]",
        "vpxord zmm1, zmm2, zmm3",
        "vpxorq zmm16, zmm17, [rsi]",
        "vpaddq zmm1, zmm2, zmm3",
        "vpandq ymm16, ymm17, ymm2",
        "vpord zmm1, zmm31, zmm3",
        "vpshufb zmm1, zmm2, zmm3",
        "vpsllq zmm1, zmm2, 9"
    );
}
