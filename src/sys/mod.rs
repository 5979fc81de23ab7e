// SPDX-License-Identifier: Apache-2.0
//! System calls no crate wraps well, each behind a safe function.

pub mod cached;
pub mod child;
pub mod clock;
pub mod contents;
pub mod descriptors;
pub mod duplicate;
pub mod heap;
pub mod limits;
pub mod names;
pub mod namespaces;
pub mod probe;
pub mod seqpacket;
pub mod tap;
pub mod tty;
pub mod twin;
