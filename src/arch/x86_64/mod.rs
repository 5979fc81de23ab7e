// SPDX-License-Identifier: Apache-2.0
//! x86-64: where things lie, how a kernel is entered, what a processor shows.

pub mod acpi;
pub mod assist;
pub mod boot;
pub mod completion;
pub mod cpuid;
pub mod host;
pub mod layout;
pub mod mptable;
pub mod ring3;
pub mod state;
pub mod vcpu;
