// SPDX-License-Identifier: Apache-2.0
//! A machine as the process that started it sees it.

pub mod session;
