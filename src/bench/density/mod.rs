// SPDX-License-Identifier: Apache-2.0
//! `husk bench density`: what memory 1, 2, 4, … instances take.
pub mod memory;
pub use super::surroundings::Host;
