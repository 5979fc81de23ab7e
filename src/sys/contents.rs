// SPDX-License-Identifier: Apache-2.0
//! What is in a file that others read, too: two processes that were given one descriptor
//! share its position, and none of them may move it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes asked for at a time.
const PIECE: usize = 64 * 1024;

/// All of the file, of which no more than `most` bytes are taken, and one that says that there
/// are more.
pub fn contents(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let most = usize::try_from(most)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    while bytes.len() < most {
        let filled = bytes.len();
        bytes.resize(most.min(filled + PIECE), 0);
        let space = bytes.get_mut(filled..).unwrap_or_default();
        match file.read_at(space, filled as u64) {
            Ok(count) => {
                bytes.truncate(filled + count);
                if count == 0 {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => bytes.truncate(filled),
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_all_that_is_there_each_time_and_no_more_than_wanted() {
        let file = tempfile::tempfile().expect("a file");
        let text: Vec<u8> = (0..200_000u32)
            .map(|number| number.to_le_bytes()[0])
            .collect();
        file.write_all_at(&text, 0).expect("room");
        for _ in 0..2 {
            assert!(contents(&file, 1 << 20).expect("bytes") == text);
        }
        assert_eq!(contents(&file, 9).expect("bytes").len(), 10);
        assert!(
            contents(&tempfile::tempfile().expect("a file"), 9)
                .expect("bytes")
                .is_empty()
        );
    }
}
