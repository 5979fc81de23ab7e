// SPDX-License-Identifier: Apache-2.0
//! A snapshot as one stream, for another host.
