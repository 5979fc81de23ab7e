// SPDX-License-Identifier: Apache-2.0
//! Typed access to KVM where its interface is a union or a sized buffer. Runs on the thread
//! that owns the vCPU; never interprets what the guest put there.

pub mod failure;
pub mod random;
pub mod xsave;
