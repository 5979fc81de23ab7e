// SPDX-License-Identifier: Apache-2.0
//! Images as people have them, of a registry and in an archive, in everybody who is installed.

use super::real::cache;
use super::{absent, outcome, read, samples};
use crate::image::Sample;
use crate::image::server::{Kind, Registry};
use crate::support::ports::free_port;
use crate::support::{finish, husk, kvm, skipped};
use serde_json::Value;

const PLAYERS: [&str; 6] = ["husk", "husk-cold", "process", "bwrap", "runc", "podman"];
const EXIT: &str = "process exit";
const ANSWER: &str = "first HTTP 200 from the service";

/// One round of all of them; each that takes part has reached `metric`, and nothing is left.
fn measured(image: &str, words: &[&str], metric: &str) {
    let Some(folder) = cache() else { return };
    let out = folder.path().join("out.json");
    let mut command = husk();
    command.args(["bench", "start", "--rounds", "1", "--warm-only"]);
    command.args(["--against", "process,bwrap,runc,podman", "--image", image]);
    command.arg("--out").arg(&out).args(words);
    command.env("HUSK_CACHE_DIR", folder.path().join("cache"));
    let logins = folder.path().join("none.json");
    std::fs::write(&logins, r#"{"auths":{}}"#).expect("a file");
    command.env("REGISTRY_AUTH_FILE", logins);
    command.env("XDG_RUNTIME_DIR", folder.path());
    let said = finish(&mut command);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.stderr.contains('\u{1b}'), "{said:?}");
    let results = read(&out);
    for player in PLAYERS {
        match absent(&results, player) {
            "" => {
                let failures = &outcome(&results, player, metric)["measured"]["failures"];
                assert_eq!(failures, &Value::Array(Vec::new()), "{player}");
                assert_eq!(samples(&results, player, metric).len(), 1, "{player}");
            }
            why => {
                let gone = ["not installed", "root", "does not answer"];
                assert!(
                    gone.iter().any(|part| why.contains(part)),
                    "{player}: {why}"
                );
                skipped(&format!("{player} takes no part here: {why}"));
            }
        }
    }
    let work = std::fs::read_dir(folder.path().join("cache/bench"));
    assert_eq!(work.expect("it was there").count(), 0);
}

/// Its own command fails where its directory, its files or its environment are not what the
/// image says.
#[test]
fn an_image_of_a_registry_runs_its_own_command_in_all_of_them() {
    let Some(_turn) = kvm::turn() else { return };
    let Some((_registry, name)) = Registry::serving(Kind::default(), "app:1", &[]) else {
        return;
    };
    let check = "test $PWD,$A,$(cat hard) = /srv,image,one && echo good";
    measured(&name, &["--", check], EXIT);
}

#[test]
fn a_service_of_an_archive_answers_in_all_of_them() {
    let Some(_turn) = kvm::turn() else { return };
    let Some(archive) = Sample::shared().and_then(|sample| sample.copied("oci-archive", &[]))
    else {
        return;
    };
    let port = free_port().to_string();
    let serve = format!("exec busybox httpd -f -p {port} -h /srv");
    let words = ["--port", &port, "--path", "/old/two", "--", &serve];
    measured(&archive, &words, ANSWER);
}
