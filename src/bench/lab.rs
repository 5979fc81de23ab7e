// SPDX-License-Identifier: Apache-2.0
//! `--clock lab`: the same benchmark on an emulated machine whose clock counts instructions, so
//! that a figure depends neither on this host nor on its load. This program, a guest kernel and
//! the lab's two scripts are put into it, and there `husk bench` runs as it does here.
//!
//! On the thread that measures; needs QEMU and a few more programs of Debian's, no root, no
//! /dev/kvm. What it knows are instructions: no cache misses, and no cost of an exit beyond its
//! instructions (docs/lab.md).

use super::contestant::{Invocation, in_path};
use super::model::{Caution, FORMAT, Results};
use super::supervise::Supervisor;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const RUN: &str = include_str!("../../tests/lab/run");
const INIT: &str = include_str!("../../tests/lab/init");

/// What every series from the lab has among its conditions.
pub const CLOCK: (&str, &str) = ("clock", "lab");

/// An emulated instruction takes a hundred real ones, and a guest's in it as many again.
const LIMIT: Duration = Duration::from_secs(900);
/// The lab has it for its files, and for the machine within.
const MEMORY_MIB: &str = "3072";

/// A figure differs from the next by what the kernel did meanwhile, and by nothing else.
pub const ROUNDS: u32 = 3;
/// There is no disk in the lab for a page cache to be cold of, and nobody who watches.
pub const WORDS: [&str; 4] = ["--warm-only", "--quiet", "--timeout", "120s"];

/// What the lab is made of.
#[derive(Clone, Debug)]
pub struct Lab<'a> {
    /// This program.
    pub husk: &'a Path,
    /// A guest kernel for hardware (ring 0), in its place in husk's cache.
    pub kernel: &'a Path,
    /// Where the lab keeps its own kernel from one run to the next.
    pub cache: &'a Path,
    /// A folder of the benchmark's own.
    pub work: &'a Path,
}

/// What is missing for a lab, if something is.
#[must_use]
pub fn absent() -> Option<String> {
    let needed = ["qemu-system-x86_64", "busybox", "cpio", "dpkg-deb", "bash"];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|name| in_path(name).is_none())
        .collect();
    (!missing.is_empty()).then(|| format!("{} not installed", missing.join(", ")))
}

impl Lab<'_> {
    /// Runs `husk bench WORDS… --format json` in the lab, and returns what it found there, each
    /// series with the lab among its conditions.
    pub fn run(&self, supervisor: &Supervisor, words: &[&str]) -> Result<Results, String> {
        if let Some(why) = absent() {
            return Err(why);
        }
        let invocation = self.invocation(words)?;
        let known: BTreeSet<i32> = supervisor.descendants().into_keys().collect();
        let run = supervisor.run(&invocation, LIMIT);
        // The lab's own watcher, which sleeps a moment longer than what it watches.
        supervisor.settle(&known, Duration::ZERO);
        let (ended, said) = run.map_err(|error| format!("the lab: {error}"))?;
        if ended.code != 0 {
            return Err(format!(
                "the lab ended with {}: {}",
                ended.code, ended.complaint
            ));
        }
        read(&said)
    }

    fn invocation(&self, words: &[&str]) -> Result<Invocation, String> {
        let told = |error: std::io::Error| format!("the lab: {error}");
        let scripts = self.work.join("lab");
        std::fs::create_dir_all(&scripts).map_err(told)?;
        std::fs::create_dir_all(self.cache).map_err(told)?;
        for (name, text) in [("run", RUN), ("init", INIT)] {
            let path = scripts.join(name);
            std::fs::write(&path, text).map_err(told)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).map_err(told)?;
        }
        let kernel = Kernel::at(self.kernel)?;
        let put = |from: &Path, to: &str| format!("{}:{to}", from.display());
        let mut invocation = Invocation::new(&scripts.join("run"))
            .words(["--icount", "--memory", MEMORY_MIB])
            .words(["--deadline", &(LIMIT.as_secs() - 30).to_string()])
            .words(["--file", &put(self.husk, "/bin/husk")]);
        for (file, name) in kernel.files() {
            let to = format!("/husk/kernels/{}/{name}", kernel.digest);
            invocation = invocation.words(["--file", &put(&file, &to)]);
        }
        let script = kernel.script(words);
        let mut invocation = invocation.words(["--", "sh", "-c", &script]);
        let cache = ("HUSK_LAB_CACHE".into(), self.cache.as_os_str().to_owned());
        invocation.env.push(cache);
        Ok(invocation)
    }
}

/// A guest kernel in husk's cache, whose links the lab's copy loses.
struct Kernel {
    folder: PathBuf,
    digest: String,
    /// The links that lead to it.
    recipes: Vec<String>,
}

impl Kernel {
    fn at(path: &Path) -> Result<Self, String> {
        let odd = || format!("{} is no kernel of husk's cache", path.display());
        let folder = path.parent().ok_or_else(odd)?.to_owned();
        let folder = std::fs::canonicalize(&folder).map_err(|_| odd())?;
        let digest = folder.file_name().and_then(|name| name.to_str());
        let digest = digest
            .filter(|name| is_hex(name))
            .ok_or_else(odd)?
            .to_owned();
        let entries = folder.parent().map(std::fs::read_dir).ok_or_else(odd)?;
        let entries = entries.map_err(|_| odd())?.flatten();
        let leads_here = |path: &Path| std::fs::canonicalize(path).is_ok_and(|to| to == folder);
        let recipes = entries
            .filter(|entry| leads_here(&entry.path()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.strip_prefix("of-recipe-").is_some_and(is_hex));
        let recipes: Vec<String> = recipes.collect();
        match recipes.is_empty() {
            true => Err(odd()),
            false => Ok(Self {
                folder,
                digest,
                recipes,
            }),
        }
    }

    /// What is needed of it: the symbols are for people.
    fn files(&self) -> Vec<(PathBuf, &'static str)> {
        let all = ["vmlinux", "provenance.json", "config", "System.map"];
        let present = all.into_iter().map(|name| (self.folder.join(name), name));
        present.filter(|(path, _)| path.is_file()).collect()
    }

    /// What the lab's shell runs. Digests are hexadecimal, and words of ours are quoted.
    fn script(&self, words: &[&str]) -> String {
        let link = |recipe: &String| format!("ln -s {} /husk/kernels/{recipe}\n", self.digest);
        let links: String = self.recipes.iter().map(link).collect();
        let quoted = words
            .iter()
            .map(|word| format!(" '{}'", word.replace('\'', r"'\''")));
        let quoted: String = quoted.collect();
        format!("export HUSK_CACHE_DIR=/husk\n{links}exec husk bench{quoted} --format json")
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn read(said: &str) -> Result<Results, String> {
    let results: Result<Results, _> = serde_json::from_str(said);
    let mut results =
        results.map_err(|error| format!("what the lab said is no result: {error}"))?;
    if results.format != FORMAT {
        return Err(format!("what the lab said is of format {}", results.format));
    }
    let (key, value) = CLOCK;
    let mark = |conditions: &mut std::collections::BTreeMap<String, String>| {
        conditions.insert(key.to_owned(), value.to_owned());
    };
    for series in &mut results.series {
        mark(&mut series.conditions);
    }
    for waterfall in &mut results.waterfalls {
        mark(&mut waterfall.conditions);
    }
    Ok(results)
}

/// Adds what the lab found to what was found here.
pub fn merge(here: &mut Results, lab: Results) {
    let fact = |key: &str, value: String| (key.to_owned(), value);
    here.machine
        .facts
        .push(fact("lab's kernel", lab.machine.kernel));
    here.machine.facts.push(fact("lab's KVM", lab.machine.kvm));
    for contestant in lab.contestants {
        if !here
            .contestants
            .iter()
            .any(|known| known.name == contestant.name)
        {
            here.contestants.push(contestant);
        }
    }
    here.series.extend(lab.series);
    here.waterfalls.extend(lab.waterfalls);
    here.cautions.push(Caution {
        what: "rows of the lab's clock count instructions, 2 ns each: they know neither cache \
               misses nor what an exit costs beyond its instructions"
            .to_owned(),
        hint: "compare them with each other, before and after a change of husk; never with rows \
               of a real clock"
            .to_owned(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::model::{Better, Contestant, Machine, Outcome, Series, Unit};
    use std::collections::BTreeMap;

    fn results() -> Results {
        Results {
            format: FORMAT,
            husk: "0".into(),
            began: 0,
            ended: 1,
            command: Vec::new(),
            image: String::new(),
            machine: Machine::default(),
            cautions: Vec::new(),
            contestants: vec![Contestant {
                name: "husk".into(),
                version: None,
                kind: "machine".into(),
                absent: None,
            }],
            series: vec![Series {
                study: "start".into(),
                contestant: "husk".into(),
                metric: "process exit".into(),
                unit: Unit::Nanoseconds,
                better: Better::Lower,
                conditions: BTreeMap::new(),
                outcome: Outcome::NotOffered("no".into()),
            }],
            waterfalls: Vec::new(),
        }
    }

    #[test]
    fn what_the_lab_found_stands_beside_what_was_found_here() {
        let text = serde_json::to_string(&results()).unwrap();
        let lab = read(&text).unwrap();
        let mut here = results();
        merge(&mut here, lab);
        assert_eq!(here.contestants.len(), 1);
        assert!(here.series[0].conditions.is_empty());
        assert_eq!(here.series[1].conditions["clock"], "lab");
        assert_eq!(here.cautions.len(), 1);
        assert!(read("no").unwrap_err().contains("no result"));
        let other = text.replacen("\"format\":1", "\"format\":2", 1);
        assert!(read(&other).unwrap_err().contains("format 2"));
    }

    #[test]
    fn a_kernel_goes_into_the_lab_with_the_links_that_lead_to_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let kernels = folder.path().join("kernels");
        std::fs::create_dir_all(kernels.join("abc1")).unwrap();
        std::fs::write(kernels.join("abc1/vmlinux"), "k").unwrap();
        let kernel = kernels.join("abc1/vmlinux");
        assert!(Kernel::at(&kernel).is_err());
        std::os::unix::fs::symlink("abc1", kernels.join("of-recipe-0d")).unwrap();
        std::os::unix::fs::symlink("abc1", kernels.join("of-recipe-; reboot")).unwrap();
        let found = Kernel::at(&kernel).unwrap();
        assert_eq!(found.recipes, ["of-recipe-0d"]);
        assert_eq!(found.files().len(), 1);
        let script = found.script(&["start", "it's"]);
        assert!(
            script.contains("ln -s abc1 /husk/kernels/of-recipe-0d\n"),
            "{script}"
        );
        assert!(script.ends_with(r"exec husk bench 'start' 'it'\''s' --format json"));
        assert!(Kernel::at(Path::new("/vmlinux")).is_err());
    }
}
