// SPDX-License-Identifier: Apache-2.0
//! Tests of the built `husk` from outside, in one binary.
//!
//! Each module says whether it needs a KVM; `support` holds what they share.

mod support;

mod cli;
