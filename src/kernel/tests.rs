// SPDX-License-Identifier: Apache-2.0
//! The builder against a source package of a few lines: real tar, patch, make and objcopy, a
//! second instead of minutes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::recipe::{Text, Tools};
use super::source::Package;
use super::*;

/// A "kernel" whose allnoconfig takes what it is given, except for options named BROKEN, and
/// whose vmlinux is an ELF file that quotes version and configuration.
const MAKEFILE: &str = r#"
allnoconfig:
	grep -v BROKEN $(KCONFIG_ALLCONFIG) > .config
vmlinux: .config version.txt
	@echo "  CC      init/main.o"
	@if grep -q CONFIG_FAIL=y .config; then echo "init/main.c:1: error: by request"; exit 3; fi
	@echo "  AS      entry.o"
	@mkdir -p include/config && cp version.txt include/config/kernel.release
	@printf 'const char stamp[] = "%s %s";\n' "$$(cat version.txt)" "$$(md5sum < .config)" > main.c
	@gcc -c main.c -o vmlinux
	@echo 'ffffffff81000000 T _text' > System.map
	@echo built >> $(BUILDS)
"#;

struct Bench {
    folder: tempfile::TempDir,
    recipe: Recipe,
}

impl Bench {
    fn new(fragment: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("linux-source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("Makefile"), MAKEFILE).unwrap();
        fs::write(source.join("version.txt"), "6.12.0-test\n").unwrap();
        let builds = format!("BUILDS={}", folder.path().join("builds").display());
        let recipe = Recipe {
            variant: Variant::Ring0,
            fragments: vec![Text {
                name: "a.config",
                text: fragment,
            }],
            patches: Vec::new(),
            variables: vec![builds.leak()],
        };
        let bench = Self { folder, recipe };
        bench.pack();
        bench
    }

    fn pack(&self) {
        let status = Command::new("tar")
            .args(["--create", "--xz", "--file"])
            .arg(self.package())
            .arg("--directory")
            .arg(self.folder.path())
            .arg("linux-source")
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn package(&self) -> PathBuf {
        self.folder.path().join("linux-source.tar.xz")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn ensure(&self) -> Result<Kernel, KernelError> {
        self.ensure_watched(&mut |_| {})
    }

    fn ensure_watched(
        &self,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Kernel, KernelError> {
        ensure_with(&self.recipe, &self.package(), &self.cache(), progress)
    }

    fn current(&self) -> Option<Kernel> {
        Cache::at(&self.cache())
            .current(&self.recipe.digest())
            .unwrap()
    }

    fn builds(&self) -> usize {
        fs::read_to_string(self.folder.path().join("builds")).map_or(0, |log| log.lines().count())
    }

    /// Names in the cache that are neither entry, link, lock nor stamp.
    fn leftovers(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.cache().join("kernels"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| {
                name.starts_with("staging-") || name.contains('.') && name != "source.json"
            })
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_kernel_is_built_once_and_found_again() {
    let bench = Bench::new("# why\nCONFIG_A=y\n# CONFIG_B is not set\n");
    assert_eq!(bench.current(), None);
    let mut seen = Vec::new();
    let kernel = bench
        .ensure_watched(&mut |step| seen.push(format!("{step:?}")))
        .unwrap();
    assert_eq!(kernel.version, "6.12.0-test");
    assert!(fs::read(&kernel.vmlinux).unwrap().starts_with(b"\x7fELF"));
    assert!(
        fs::read_to_string(&kernel.config)
            .unwrap()
            .contains("CONFIG_A=y")
    );
    assert!(kernel.system_map.is_file());
    assert_eq!(seen.first().unwrap(), "Hashing");
    assert!(
        seen.iter()
            .any(|step| step.starts_with("Compiling { objects: 2")),
        "{seen:?}"
    );
    assert_eq!(seen.last().unwrap(), "Finishing");

    seen.clear();
    let again = bench
        .ensure_watched(&mut |step| seen.push(format!("{step:?}")))
        .unwrap();
    assert_eq!(again, kernel);
    assert_eq!(
        seen,
        [] as [String; 0],
        "the second time nothing is hashed or built"
    );
    assert_eq!(bench.current(), Some(kernel.clone()));
    assert_eq!(list(&bench.cache()).unwrap(), [kernel]);
    assert_eq!(bench.builds(), 1);
    assert_eq!(bench.leftovers(), [] as [String; 0]);
}

#[test]
fn the_record_names_every_ingredient() {
    let mut bench = Bench::new("CONFIG_A=y\n");
    bench.recipe.patches = vec![Text {
        name: "0001-version.patch",
        text: VERSION_PATCH,
    }];
    let kernel = bench.ensure().unwrap();
    assert_eq!(kernel.version, "6.12.0-patched", "the patch was applied");
    let path = Provenance::path(kernel.vmlinux.parent().unwrap());
    let record: Provenance = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(record.digest, kernel.digest);
    assert_eq!(record.fragments[0].name, "a.config");
    assert_eq!(record.patches[0].name, "0001-version.patch");
    assert_eq!(record.objects, 2);
    assert!(record.compiler.contains("gcc"), "{}", record.compiler);
    assert!(
        record.command.contains(&"vmlinux".to_owned()),
        "{:?}",
        record.command
    );
}

const VERSION_PATCH: &str =
    "Why.\n---\n--- a/version.txt\n+++ b/version.txt\n@@ -1 +1 @@\n-6.12.0-test\n+6.12.0-patched\n";

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let one = Bench::new("CONFIG_A=y\n");
    let other = Bench::new("CONFIG_A=y\n");
    let bytes = |bench: &Bench| fs::read(bench.ensure().unwrap().vmlinux).unwrap();
    assert_eq!(bytes(&one), bytes(&other));
}

#[test]
fn whatever_changes_makes_another_digest() {
    let bench = Bench::new("CONFIG_A=y\n");
    let tools = Tools {
        compiler: "gcc 1".into(),
        linker: "ld 1".into(),
    };
    let package = Package {
        path: "p".into(),
        size: 1,
        digest: "d".into(),
    };
    let base = bench.recipe.kernel_digest(&package, &tools);
    let mut fragment = bench.recipe.clone();
    fragment.fragments[0].text = "CONFIG_A=n\n";
    let mut patch = bench.recipe.clone();
    patch.patches.push(Text {
        name: "p",
        text: "",
    });
    let mut variable = bench.recipe.clone();
    variable.variables.push("X=1");
    let others = [
        fragment.kernel_digest(&package, &tools),
        patch.kernel_digest(&package, &tools),
        variable.kernel_digest(&package, &tools),
        bench.recipe.kernel_digest(
            &Package {
                digest: "e".into(),
                ..package.clone()
            },
            &tools,
        ),
        bench.recipe.kernel_digest(
            &package,
            &Tools {
                compiler: "gcc 2".into(),
                ..tools.clone()
            },
        ),
        bench.recipe.kernel_digest(
            &package,
            &Tools {
                linker: "ld 2".into(),
                ..tools.clone()
            },
        ),
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(&base, other, "change {index}");
    }
    // The package's place is not an ingredient.
    let moved = Package {
        path: "q".into(),
        ..package
    };
    assert_eq!(base, bench.recipe.kernel_digest(&moved, &tools));
}

#[test]
fn a_changed_source_package_is_noticed() {
    let bench = Bench::new("CONFIG_A=y\n");
    let before = bench.ensure().unwrap();
    let version = bench.folder.path().join("linux-source/version.txt");
    fs::write(version, "6.12.1-test\n").unwrap();
    bench.pack();
    let after = bench.ensure().unwrap();
    assert_eq!(after.version, "6.12.1-test");
    assert_ne!(after.digest, before.digest);
    assert_eq!(bench.current(), Some(after));
    assert_eq!(list(&bench.cache()).unwrap().len(), 2);
}

#[test]
fn an_option_kconfig_drops_stops_the_build_by_name() {
    let bench = Bench::new("CONFIG_A=y\nCONFIG_BROKEN=y\n");
    let error = bench.ensure().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel's configuration did not take CONFIG_BROKEN=y (it is n)"
    );
    assert_eq!(bench.builds(), 0);
    assert_eq!(bench.current(), None);
}

#[test]
fn a_failed_build_leaves_its_log_and_nothing_else() {
    let bench = Bench::new("CONFIG_FAIL=y\n");
    let error = bench.ensure().unwrap_err();
    let KernelError::Step { step, log, tail } = &error else {
        panic!("{error}")
    };
    assert!(step.starts_with("compiling (make: "), "{step}");
    assert!(tail.contains("init/main.c:1: error: by request"), "{tail}");
    assert!(
        fs::read_to_string(log)
            .unwrap()
            .contains("error: by request")
    );
    assert_eq!(
        bench.leftovers(),
        [log.file_name().unwrap().to_str().unwrap()]
    );
    assert_eq!(list(&bench.cache()).unwrap(), []);
}

#[test]
fn a_patch_that_does_not_apply_is_named() {
    let mut bench = Bench::new("CONFIG_A=y\n");
    let wrong = VERSION_PATCH.replace("-6.12.0-test", "-5.10").leak();
    bench.recipe.patches = vec![Text {
        name: "0007-wrong.patch",
        text: wrong,
    }];
    let error = bench.ensure().unwrap_err().to_string();
    assert!(
        error.starts_with("patch 0007-wrong.patch (patch: "),
        "{error}"
    );
}

#[test]
fn what_an_interrupted_build_left_is_swept_and_never_taken_for_a_kernel() {
    let bench = Bench::new("CONFIG_A=y\n");
    let stale = bench.cache().join("kernels/staging-dead/done");
    fs::create_dir_all(&stale).unwrap();
    fs::write(stale.join("vmlinux"), "half").unwrap();
    assert_eq!(list(&bench.cache()).unwrap(), []);
    bench.ensure().unwrap();
    assert!(!stale.exists());
}

#[test]
fn a_damaged_entry_is_built_anew() {
    let bench = Bench::new("CONFIG_A=y\n");
    let kernel = bench.ensure().unwrap();
    fs::remove_file(&kernel.vmlinux).unwrap();
    assert_eq!(bench.current(), None);
    fs::write(Provenance::path(kernel.vmlinux.parent().unwrap()), "{").unwrap();
    let again = bench.ensure().unwrap();
    assert!(again.vmlinux.is_file());
    assert_eq!(bench.builds(), 2);
}

#[test]
fn concurrent_builds_build_once() {
    let bench = Bench::new("CONFIG_A=y\n");
    let kernels: Vec<Kernel> = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| bench.ensure().unwrap()))
            .collect();
        builds
            .into_iter()
            .map(|build| build.join().unwrap())
            .collect()
    });
    assert!(kernels.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(bench.builds(), 1);
}

#[test]
fn a_missing_source_package_says_what_to_install() {
    let bench = Bench::new("CONFIG_A=y\n");
    fs::remove_file(bench.package()).unwrap();
    let error = bench.ensure().unwrap_err();
    assert!(
        matches!(error, KernelError::SourceMissing { .. }),
        "{error}"
    );
    assert_eq!(error.hint(), Some(INSTALL_LINE));
}

#[test]
fn a_package_without_a_kernel_in_it_is_refused() {
    let bench = Bench::new("CONFIG_A=y\n");
    fs::remove_file(bench.folder.path().join("linux-source/Makefile")).unwrap();
    bench.pack();
    let error = bench.ensure().unwrap_err();
    assert!(
        matches!(error, KernelError::SourceUnusable { .. }),
        "{error}"
    );
}

/// Names in a folder of `guest/kernel`, as the recipe knows them; none where there is no folder.
fn files(folder: &str, prefix: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("guest/kernel")
        .join(folder)
        .join(prefix);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            names.push(format!("{prefix}{}", entry.file_name().to_str().unwrap()));
        }
    }
    names.sort();
    names
}

fn names(texts: &[Text]) -> Vec<String> {
    texts.iter().map(|text| text.name.to_owned()).collect()
}

/// `include_str!` wants every name written down; this finds the one that was forgotten.
#[test]
fn every_file_in_guest_kernel_is_embedded_in_order() {
    let ordinary = Recipe::embedded(Variant::Ring0);
    assert_eq!(names(&ordinary.fragments), files("config", ""));
    assert_eq!(names(&ordinary.patches), files("patches", ""));
    let ring3 = Recipe::embedded(Variant::Ring3);
    let both = |folder| [files(folder, ""), files(folder, "ring3/")].concat();
    assert_eq!(names(&ring3.fragments), both("config"));
    assert_eq!(names(&ring3.patches), both("patches"));
}

/// Over the ordinary files alone. Whoever changes one of them changes this line, and knows that
/// every user's kernel is built anew; what is done for ring 3 leaves it as it is.
#[test]
fn nothing_of_ring_3_is_in_the_ordinary_kernel() {
    let ordinary = Recipe::embedded(Variant::Ring0);
    assert_eq!(
        ordinary.digest(),
        "0f059b1653971990dcd9250d6fa5fdb22580bb6ebe76e50674db549afb40d0e9"
    );
    let texts = || ordinary.fragments.iter().chain(&ordinary.patches);
    assert!(texts().all(|text| !text.name.contains("ring3")));
    let plain: String = ordinary
        .fragments
        .iter()
        .map(|fragment| format!("{}\n", fragment.text))
        .collect();
    assert_eq!(ordinary.merged_config(), plain, "no line of it is lost");
    let ring3 = Recipe::embedded(Variant::Ring3);
    assert_ne!(ring3.digest(), ordinary.digest());
    assert!(names(&ring3.fragments).starts_with(&names(&ordinary.fragments)));
    assert!(names(&ring3.patches).starts_with(&names(&ordinary.patches)));
}

/// The ring-3 kernel is the ordinary recipe with more behind it: its fragment overrides, its
/// patch comes last, and both kernels are in the cache, each found by its own recipe.
#[test]
fn two_variants_live_side_by_side() {
    let ordinary = Bench::new("CONFIG_A=y\nCONFIG_B=y\n");
    let first = ordinary.ensure().unwrap();
    let mut ring3 = ordinary.recipe.clone();
    ring3.variant = Variant::Ring3;
    ring3.fragments.push(Text {
        name: "ring3/90.config",
        text: "# CONFIG_A is not set\nCONFIG_HUSK_RING3=y\n",
    });
    ring3.patches.push(Text {
        name: "ring3/0001-version.patch",
        text: VERSION_PATCH,
    });
    let second = ensure_with(&ring3, &ordinary.package(), &ordinary.cache(), &mut |_| {}).unwrap();
    assert_eq!(
        (first.variant, first.version.as_str()),
        (Variant::Ring0, "6.12.0-test")
    );
    assert_eq!(
        (second.variant, second.version.as_str()),
        (Variant::Ring3, "6.12.0-patched")
    );
    let config = fs::read_to_string(&second.config).unwrap();
    assert!(!config.contains("CONFIG_A=y"), "{config}");
    assert!(config.contains("CONFIG_B=y") && config.contains("CONFIG_HUSK_RING3=y"));
    assert_eq!(ordinary.current(), Some(first));
    let cache = Cache::at(&ordinary.cache());
    assert_eq!(cache.current(&ring3.digest()).unwrap(), Some(second));
    assert_eq!(list(&ordinary.cache()).unwrap().len(), 2);
}

#[test]
fn a_record_from_before_there_were_variants_is_of_the_ordinary_kernel() {
    let bench = Bench::new("CONFIG_A=y\n");
    let kernel = bench.ensure().unwrap();
    let path = Provenance::path(kernel.vmlinux.parent().unwrap());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"variant\": \"ring0\","), "{text}");
    fs::write(&path, text.replace("\"variant\": \"ring0\",", "")).unwrap();
    assert_eq!(bench.current(), Some(kernel));
}

#[test]
fn every_patch_says_why_before_it_says_what() {
    for patch in Recipe::embedded(Variant::Ring3).patches {
        let (why, what) = patch.text.split_once("\n---\n").expect(patch.name);
        assert!(why.lines().count() > 3, "{} has no explanation", patch.name);
        assert!(what.starts_with("--- "), "{} has no hunks", patch.name);
    }
}
