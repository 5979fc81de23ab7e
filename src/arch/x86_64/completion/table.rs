// SPDX-License-Identifier: Apache-2.0
//! The one table: which handler completes which instruction. Read docs/completion.md before
//! adding a row; every row is checked against the processor in `tests`.

use super::fault::Step;
use super::stopped::Stopped;
use super::{atomic, fpu, integer, system, vector, vector_ops, xsave};
use iced_x86::{Instruction, Mnemonic};

pub(super) type Handler = fn(&mut Stopped, &Instruction) -> Step;

#[rustfmt::skip]
pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    kernel(mnemonic).or_else(|| general(mnemonic)).or_else(|| vectors(mnemonic))
}

/// What kernels run by profession.
#[rustfmt::skip]
fn kernel(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Cmpxchg8b | M::Cmpxchg16b => atomic::cmpxchg_pair,
        M::Clac | M::Stac => system::access_check,
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64
        | M::Xsaves | M::Xsaves64 => xsave::save,
        M::Xrstor | M::Xrstor64 | M::Xrstors | M::Xrstors64 => xsave::restore,
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => xsave::legacy,
        M::Xgetbv => system::xgetbv,
        M::Xsetbv => system::xsetbv,
        M::Int3 => system::breakpoint,
        M::Ud0 | M::Ud1 | M::Ud2 => system::undefined,
        M::Wait => fpu::wait,
        M::Fninit | M::Fnclex | M::Fnstcw | M::Fnstsw | M::Fldcw | M::Emms => fpu::control,
        M::Ldmxcsr | M::Stmxcsr | M::Vldmxcsr | M::Vstmxcsr => fpu::mxcsr_move,
        M::Swapgs => system::swapgs,
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => system::base,
        M::Invpcid => system::invpcid,
        M::Rdtscp | M::Rdpid => system::identity,
        M::Vmcall | M::Vmmcall => system::hypercall,
        M::Sysret | M::Sysretq => system::sysret,
        M::Clflush | M::Clflushopt | M::Clwb | M::Cldemote => system::cache_line,
        M::Wbinvd | M::Wbnoinvd | M::Invd => system::all_caches,
        _ => return None,
    })
}

/// Integer instructions, and those that do nothing we could see.
#[rustfmt::skip]
fn general(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Popcnt | M::Lzcnt | M::Tzcnt => integer::count,
        M::Bsf | M::Bsr => integer::scan,
        M::Rdrand | M::Rdseed => integer::random,
        M::Movbe => integer::movbe,
        M::Bswap => integer::bswap,
        M::Movnti => integer::movnti,
        M::Xadd => integer::xadd,
        M::Cmpxchg => atomic::cmpxchg,
        M::Crc32 => integer::crc32,
        M::Andn => integer::andn,
        M::Bextr => integer::bextr,
        M::Bzhi => integer::bzhi,
        M::Blsi | M::Blsmsk | M::Blsr => integer::lowest,
        M::Shlx | M::Shrx | M::Sarx | M::Rorx => integer::shift,
        M::Pdep | M::Pext => integer::scatter,
        M::Mulx => integer::mulx,
        M::Adcx | M::Adox => integer::add_carry,
        M::Nop | M::Fnop | M::Pause | M::Endbr64 | M::Endbr32 | M::Serialize
        | M::Lfence | M::Mfence | M::Sfence | M::Prefetch | M::Prefetchw | M::Prefetchwt1
        | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchnta
        | M::Prefetchit0 | M::Prefetchit1 => integer::nothing,
        _ => return None,
    })
}

#[rustfmt::skip]
fn vectors(mnemonic: Mnemonic) -> Option<Handler> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Movaps | M::Movapd | M::Movups | M::Movupd | M::Movdqa | M::Movdqu | M::Lddqu
        | M::Movntdq | M::Movntps | M::Movntpd | M::Movntdqa
        | M::Vmovaps | M::Vmovapd | M::Vmovups | M::Vmovupd | M::Vmovdqa | M::Vmovdqu | M::Vlddqu
        | M::Vmovntdq | M::Vmovntps | M::Vmovntpd | M::Vmovntdqa
        | M::Vmovdqa32 | M::Vmovdqa64 | M::Vmovdqu8 | M::Vmovdqu16 | M::Vmovdqu32
        | M::Vmovdqu64 => vector::whole,
        M::Movd | M::Movq | M::Vmovd | M::Vmovq => vector::scalar,
        M::Movss | M::Movsd | M::Vmovss | M::Vmovsd => vector::scalar_float,
        M::Movlps | M::Movlpd | M::Movhps | M::Movhpd | M::Movhlps | M::Movlhps
        | M::Vmovlps | M::Vmovlpd | M::Vmovhps | M::Vmovhpd | M::Vmovhlps
        | M::Vmovlhps => vector::half,
        M::Pmovmskb | M::Vpmovmskb | M::Movmskps | M::Movmskpd | M::Vmovmskps
        | M::Vmovmskpd => vector::signs,
        M::Pextrb | M::Pextrw | M::Pextrd | M::Pextrq
        | M::Vpextrb | M::Vpextrw | M::Vpextrd | M::Vpextrq => vector::extract,
        M::Pinsrb | M::Pinsrw | M::Pinsrd | M::Pinsrq
        | M::Vpinsrb | M::Vpinsrw | M::Vpinsrd | M::Vpinsrq => vector::insert,
        M::Vzeroupper | M::Vzeroall => vector::zero,
        M::Pshufd | M::Vpshufd => vector_ops::shuffle,
        M::Psllw | M::Pslld | M::Psllq | M::Psrlw | M::Psrld | M::Psrlq | M::Psraw | M::Psrad
        | M::Pslldq | M::Psrldq
        | M::Vpsllw | M::Vpslld | M::Vpsllq | M::Vpsrlw | M::Vpsrld | M::Vpsrlq | M::Vpsraw
        | M::Vpsrad | M::Vpslldq | M::Vpsrldq => vector_ops::shift,
        _ if vector_ops::known(mnemonic) => vector_ops::binary,
        _ => return None,
    })
}
