// SPDX-License-Identifier: Apache-2.0
//! What is to be different of a machine that goes on from a snapshot. Pure.

use super::RunRequest;
use super::network::{self, Mode, Publish};
use super::request;
use crate::cli::output::Problem;
use crate::config::net::MAX_PUBLISHED;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, clap::Args)]
pub struct ChangesArgs {
    /// Call the machine so: letters, digits, '_', '.' and '-'
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What the guest calls itself; without it the machine's name, or what it was called
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Keep nothing of it once it ended; always so without --detach
    #[arg(long)]
    rm: bool,
    /// Something to know it by, as often as wanted
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Lead a port of the host into the guest, in place of all that were
    #[arg(short, long, value_name = "[IP:]HOST:GUEST")]
    publish: Vec<String>,
    /// Do not confine the process that runs the guest; for finding faults only
    #[arg(long)]
    no_jail: bool,
    /// How long the guest may take to be itself again: 30s, 2m, 1500ms
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        allow_negative_numbers = true
    )]
    timeout: String,
}

/// The same, checked.
#[derive(Clone, Debug)]
pub struct Changes {
    name: Option<String>,
    hostname: Option<String>,
    remove: bool,
    labels: BTreeMap<String, String>,
    publish: Vec<Publish>,
    jail: bool,
    timeout: Duration,
}

impl Changes {
    pub fn check(args: &ChangesArgs) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut note = |result: Result<(), Problem>| problems.extend(result.err());
        note(args.name.as_deref().map_or(Ok(()), request::name));
        note(args.hostname.as_deref().map_or(Ok(()), request::hostname));
        let labels = request::labels(&args.label, &mut problems);
        let mut publish = Vec::new();
        for text in &args.publish {
            match network::publish(text) {
                Ok(port) => publish.push(port),
                Err(problem) => problems.push(problem),
            }
        }
        if publish.len() > MAX_PUBLISHED {
            problems.push(Problem::new(format!(
                "--publish: {MAX_PUBLISHED} are the most, and these are {}",
                publish.len()
            )));
        }
        match request::timeout(&args.timeout) {
            Ok(timeout) if problems.is_empty() => Ok(Self {
                name: args.name.clone(),
                hostname: args.hostname.clone(),
                remove: args.rm,
                labels,
                publish,
                jail: !args.no_jail,
                timeout,
            }),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }

    /// Whether others take the place of the ports that were published.
    pub fn publishes(&self) -> bool {
        !self.publish.is_empty()
    }

    /// Onto what the machine was asked for, which says already whether it is to be detached.
    /// What is confined and what is forgiven is for this host's operator to say, whatever the
    /// snapshot does.
    pub fn apply(self, request: &mut RunRequest) -> Result<(), Problem> {
        request.remove = self.remove || !request.detach;
        request.jail = self.jail;
        request.timeout = self.timeout;
        request.vsock = None;
        request.labels.extend(self.labels);
        let called = self.hostname.or_else(|| self.name.clone());
        request.hostname = called
            .or_else(|| request.hostname.take())
            .or_else(|| request.name.take());
        request.name = self.name;
        if !self.publish.is_empty() {
            if !matches!(request.network.mode, Mode::User { .. } | Mode::Private(_)) {
                return Err(Problem::new(
                    "--publish: the machine's network has no ports of the host",
                ));
            }
            request.network.publish = self.publish;
        }
        Ok(())
    }
}
