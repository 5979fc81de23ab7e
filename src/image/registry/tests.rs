// SPDX-License-Identifier: Apache-2.0
//! Registries: a real one, and one that lies.
