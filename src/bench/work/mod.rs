// SPDX-License-Identifier: Apache-2.0
//! `husk bench work`: what the same work costs inside.
pub mod rows;
pub use rows::{ROWS, Row, Told};
