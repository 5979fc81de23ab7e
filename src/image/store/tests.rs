// SPDX-License-Identifier: Apache-2.0
//! The store: what is in it is whole, whoever else is there and whatever was interrupted.
