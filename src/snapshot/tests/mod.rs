// SPDX-License-Identifier: Apache-2.0
//! The store with snapshots made by its own hand.
