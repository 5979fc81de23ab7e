// SPDX-License-Identifier: Apache-2.0
//! Entries of a layer that hide what is in the layers below (image-spec, layer.md,
//! "Whiteouts").
//!
//! Pure. What is hidden is one component of a path, or everything beside the whiteout: a
//! layer cannot hide what lies elsewhere.

use crate::image::error::Malformed;

/// What the name of a file begins with that hides another in the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of everything in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a whiteout hides in its directory.
#[derive(Clone, Copy)]
pub enum Hidden<'a> {
    Name(&'a [u8]),
    All,
    /// What a union file system of old kept there for itself.
    Nothing,
}

/// None for an entry that is no whiteout.
pub fn hidden(path: &[u8]) -> Result<Option<Hidden<'_>>, Malformed> {
    let parts = || {
        path.split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
    };
    let name = parts().next_back();
    if name == Some(OPAQUE) {
        return Ok(Some(Hidden::All));
    }
    let own = [WHITEOUT, WHITEOUT].concat();
    if parts().any(|part| part.starts_with(&own)) {
        return Ok(Some(Hidden::Nothing));
    }
    match name.and_then(|name| name.strip_prefix(WHITEOUT)) {
        None => Ok(None),
        Some(b"" | b"." | b"..") => Err(Malformed::Path),
        Some(name) => Ok(Some(Hidden::Name(name))),
    }
}
