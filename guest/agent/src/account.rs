// SPDX-License-Identifier: Apache-2.0
//! Who the process runs as: what the operator typed, looked up in the image's own passwd
//! and group files. Pure; those files are the image's and may hold anything.

use crate::sys::Identity;
use alloc::string::String;
use alloc::vec::Vec;

/// Most bytes read of either file: a larger one is an attempt to exhaust our memory, and
/// lines past this are as if they were not there.
pub const MAX_FILE: usize = 1024 * 1024;
/// Most supplementary groups the kernel takes (NGROUPS_MAX).
const MAX_GROUPS: usize = 65536;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub identity: Identity,
    /// Empty if the passwd file names none.
    pub home: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    User(String),
    Group(String),
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// Resolves `user[:group]` the way container engines do: an unknown number is taken as it
/// is with group 0, an unknown name is an error, and a group given explicitly replaces the
/// user's supplementary ones.
pub fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Account, Unknown> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user.as_bytes());
    let entry = users(passwd)
        .find(|entry| entry.name == user.as_bytes())
        .or_else(|| users(passwd).find(|entry| Some(entry.uid) == number));
    let (uid, gid, home, name) = match (entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home, entry.name),
        (None, Some(uid)) => (uid, 0, &b""[..], &b""[..]),
        (None, None) => return Err(Unknown::User(user.into())),
    };
    let (gid, groups) = match wanted_group {
        Some(wanted) => (group_id(wanted, group)?, Vec::new()),
        None => (gid, memberships(name, group)),
    };
    Ok(Account {
        identity: Identity { uid, gid, groups },
        home: home.into(),
    })
}

fn group_id(wanted: &str, file: &[u8]) -> Result<u32, Unknown> {
    lines(file)
        .filter(|fields| fields.first() == Some(&wanted.as_bytes()))
        .find_map(|fields| id(fields.get(2)?))
        .or_else(|| id(wanted.as_bytes()))
        .ok_or_else(|| Unknown::Group(wanted.into()))
}

fn memberships(name: &[u8], file: &[u8]) -> Vec<u32> {
    if name.is_empty() {
        return Vec::new();
    }
    lines(file)
        .filter(|fields| {
            fields
                .get(3)
                .is_some_and(|members| members.split(|&b| b == b',').any(|m| m == name))
        })
        .filter_map(|fields| id(fields.get(2)?))
        .take(MAX_GROUPS)
        .collect()
}

fn users(file: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(file).filter_map(|fields| match fields[..] {
        [name, _, uid, gid, _, home, ..] => Some(User {
            name,
            uid: id(uid)?,
            gid: id(gid)?,
            home,
        }),
        _ => None,
    })
}

/// The fields of each line that is neither empty nor a comment.
fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|&b| b == b'\n')
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| line.split(|&b| b == b':').take(8).collect())
}

/// A decimal user or group number; the last one means "unchanged" to the kernel.
fn id(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u32 = core::str::from_utf8(text).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # comment:x:9:9::/:/\n\
        nginx:x:101:102:nginx user:/var/cache/nginx:/sbin/nologin\n\
        1234:x:77:78::/odd:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:root\nwww:x:33:nginx,other\nnginx:x:102:\nlog:x:4:x,nginx\n";

    fn ids(spec: &str) -> (u32, u32, Vec<u32>) {
        let identity = resolve(spec, PASSWD, GROUP).unwrap().identity;
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn users_and_groups_resolve_as_container_engines_do() {
        assert_eq!(ids(""), (0, 0, vec![0]));
        assert_eq!(ids("nginx"), (101, 102, vec![33, 4]));
        assert_eq!(ids("101"), (101, 102, vec![33, 4]));
        assert_eq!(ids("nginx:www"), (101, 33, vec![]));
        assert_eq!(ids("nginx:"), (101, 102, vec![33, 4]));
        assert_eq!(ids(":www"), (0, 33, vec![]));
        assert_eq!(ids("5000"), (5000, 0, vec![]));
        assert_eq!(ids("5000:6000"), (5000, 6000, vec![]));
        // A name made of digits wins over the number.
        assert_eq!(ids("1234"), (77, 78, vec![]));
        assert_eq!(resolve("root", PASSWD, GROUP).unwrap().home, b"/root");
        assert_eq!(resolve("5000", PASSWD, GROUP).unwrap().home, b"");
    }

    #[test]
    fn what_does_not_exist_is_said() {
        let unknown = |spec| resolve(spec, PASSWD, GROUP).unwrap_err();
        assert_eq!(unknown("nobody"), Unknown::User("nobody".into()));
        assert_eq!(unknown("comment"), Unknown::User("comment".into()));
        assert_eq!(unknown("root:wheel"), Unknown::Group("wheel".into()));
        for spec in ["-1", "4294967295", "4294967296", "0x1", "1 ", "+1"] {
            assert_eq!(unknown(spec), Unknown::User(spec.into()));
        }
    }

    #[test]
    fn hostile_files_are_only_lines_that_do_not_match() {
        for file in [
            &b""[..],
            b":::::::",
            b"\n\n\n",
            b"root",
            b"root:x",
            b"root:x:0",
            b"root:x:-1:99999999999:::",
            b"\xff\xfe:\x00:\x01:\x02:\x03",
            &[b':'; 100_000],
            &[b'\n'; 100_000],
        ] {
            let account = resolve("0", file, file).unwrap();
            assert_eq!(account.identity.uid, 0);
            assert!(resolve("root", file, file).is_err());
        }
    }
}
