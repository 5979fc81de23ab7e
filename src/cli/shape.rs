// SPDX-License-Identifier: Apache-2.0
//! The size of a machine: `-c` and `-m`, from what was typed to what the machine gets.

use super::host::Memory;
use super::output::Problem;
use crate::config::{MAX_CPUS, MIN_MEMORY};
use crate::units::{ByteSize, SizeError};

/// As typed: whatever is wrong with it is told together with everything else.
#[derive(Clone, Debug, clap::Args)]
pub struct ShapeArgs {
    /// How many vCPUs the machine has, 1 to 254
    #[arg(short, long, value_name = "COUNT", default_value = "1")]
    #[arg(allow_negative_numbers = true)]
    pub cpus: String,
    /// Its memory: 512, 512m, 1g, 1.5GiB, 256MB. A bare number is MiB, and every unit is
    /// a power of 1024; what is no whole MiB is rounded up to one
    #[arg(short, long, value_name = "SIZE", default_value = "512m")]
    #[arg(allow_negative_numbers = true)]
    pub memory: String,
}

/// A size some machine on this host can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    pub cpus: u32,
    pub memory: ByteSize,
}

impl Shape {
    /// Adds what is wrong to `problems`; nothing then.
    pub fn check(args: &ShapeArgs, host: Memory, problems: &mut Vec<Problem>) -> Option<Self> {
        let cpus = cpus(&args.cpus).map_err(|p| problems.push(p)).ok();
        let memory = memory(&args.memory, host)
            .map_err(|p| problems.push(p))
            .ok();
        Some(Self {
            cpus: cpus?,
            memory: memory?,
        })
    }
}

fn cpus(text: &str) -> Result<u32, Problem> {
    let range = format!("a machine has 1 to {MAX_CPUS}");
    // A number beyond every type is still a number: it is too many, not misspelt.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(0) => Err(Problem::new(format!("--cpus 0: too few, {range}"))),
        Ok(count @ 1..=MAX_CPUS) => Ok(count),
        Err(_) if !digits => Err(Problem::new(format!(
            "--cpus {text}: not a count of vCPUs, {range}"
        ))),
        _ => Err(Problem::new(format!("--cpus {text}: too many, {range}"))),
    }
}

fn memory(text: &str, host: Memory) -> Result<ByteSize, Problem> {
    let size = ByteSize::parse_in(text, ByteSize::MIB)
        .and_then(|size| size.round_up(ByteSize::MIB).ok_or(SizeError::Overflow));
    let size = size.map_err(|error| {
        Problem::new(format!("--memory {text}: {error}"))
            .hint("sizes look like 512m or 1.5g; a bare number is MiB")
    })?;
    let least = ByteSize::from_bytes(MIN_MEMORY);
    if size < least {
        return Err(Problem::new(format!(
            "--memory {text}: {size} is too little, no Linux kernel starts in less than {least}"
        )));
    }
    if size > host.limit() {
        let bare = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        let problem = Problem::new(format!(
            "--memory {text}: {size} is more than this host has, {} of RAM and {} of swap",
            host.total.rounded(),
            host.swap.rounded(),
        ));
        return Err(match bare {
            true => problem.hint("a bare number is MiB; for bytes write 'b' after it"),
            false => problem,
        });
    }
    Ok(size)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const HOST: Memory = Memory {
        total: ByteSize::from_bytes(8 << 30),
        available: ByteSize::from_bytes(6 << 30),
        swap: ByteSize::from_bytes(1 << 30),
    };

    fn check(cpus: &str, memory: &str) -> Result<Shape, Vec<String>> {
        let args = ShapeArgs {
            cpus: cpus.into(),
            memory: memory.into(),
        };
        let mut problems = Vec::new();
        Shape::check(&args, HOST, &mut problems)
            .ok_or_else(|| problems.into_iter().map(|p| p.what).collect())
    }

    #[test]
    fn a_shape_this_host_can_have_is_taken() {
        for (cpus, memory, bytes) in [
            ("1", "16", 16 << 20),
            ("254", "9g", 9 << 30),
            ("2", "16777217b", 17 << 20),
        ] {
            let shape = check(cpus, memory).expect("a shape");
            assert_eq!(shape.cpus.to_string(), cpus);
            assert_eq!(shape.memory.bytes(), bytes);
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let both = check("0", "0").expect_err("problems");
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(
            both[0].contains("too few, a machine has 1 to 254"),
            "{both:?}"
        );
        assert!(both[1].contains("16 MiB"), "{both:?}");
    }

    #[test]
    fn counts_and_sizes_out_of_range_are_refused() {
        for cpus in ["0", "255", "10000", "-1", "two", "", "99999999999999999999"] {
            assert_eq!(check(cpus, "512").map_err(|p| p.len()), Err(1), "{cpus}");
        }
        for memory in [
            "0",
            "1m",
            "15m",
            "-5",
            "lots",
            "",
            "10g",
            "16E",
            "99999999999",
        ] {
            assert_eq!(check("1", memory).map_err(|p| p.len()), Err(1), "{memory}");
        }
        let much = check("1", "10g").expect_err("too much");
        assert!(
            much[0].contains("8 GiB of RAM and 1 GiB of swap"),
            "{much:?}"
        );
    }
}
