// SPDX-License-Identifier: Apache-2.0
//! The stack without a machine.
