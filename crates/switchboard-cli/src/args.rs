//! What can be written on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, Resettable};
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;
use switchboard::{InstanceId, ServiceName};

use crate::complete::{self, CommandLine};

/// See, try and join service discovery from a terminal
///
/// Shows what is registered on any backend, and lets any program in any language take part.
///
/// Exit codes: 0 done, 1 failed, 2 bad usage; `run` returns the code of the program it ran.
#[derive(Debug, Parser)]
#[command(name = "switchboard", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The registry: `mdns:`, `mdns:?interface=lo`, `consul://127.0.0.1:8500`, `etcd://127.0.0.1:2379`, … [env: SWITCHBOARD_REGISTRY] [default: the current context, or mdns:]
    // The environment is read without clap, to tell an empty variable, which counts as none, from an empty option, which is a mistake.
    #[allow(clippy::doc_markdown, reason = "the help is no markdown")]
    #[arg(long, global = true, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) registry: Option<String>,

    /// The registry of this name in the configuration file; see `switchboard context`
    #[arg(long, global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    pub(crate) context: Option<String>,

    /// See and do everything in this namespace, where the registry's URL names none [env: SWITCHBOARD_NAMESPACE]
    #[allow(clippy::doc_markdown, reason = "the help is no markdown")]
    #[arg(long, global = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) namespace: Option<String>,

    /// Write JSON for machines
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say more on standard error; -vv and -vvv say even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// How long one thing asked of the registry or a service may take
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

impl Global {
    /// Those of a line that may not be finished.
    pub(crate) fn of(line: &ArgMatches) -> Self {
        let text = |name: &str| line.try_get_one::<String>(name).ok().flatten().cloned();
        Self {
            registry: text("registry"),
            context: text("context"),
            namespace: text("namespace"),
            json: false,
            verbose: 0,
            timeout: Duration::ZERO,
        }
    }
}

/// What a command takes, defined when it is that command's turn: a line has one of them, and defining all takes longer than
/// most of what a short command does.
#[derive(Debug)]
pub(crate) struct Later<T>(pub(crate) T);

impl<T: Args> Args for Later<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.defer(|command| {
            // What is told of the command itself stays, whatever the groups of its options say of themselves.
            let (about, long) = (command.get_about().cloned(), command.get_long_about().cloned());
            T::augment_args(command).about(Resettable::from(about)).long_about(Resettable::from(long))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<T: FromArgMatches> FromArgMatches for Later<T> {
    fn from_arg_matches(found: &ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(found).map(Self)
    }

    fn update_from_arg_matches(&mut self, found: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(found)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the services, with how many instances each has
    #[command(aliases = ["list", "ls"])]
    Services(Later<Services>),
    /// List the instances of a service, healthy ones first
    Instances(Later<Instances>),
    /// Tell everything about a service or one of its instances
    Describe(Later<Describe>),
    /// Wait until a service has so many healthy instances, or none at all
    Wait(Later<Wait>),
    /// Show each change as it happens, the current state first
    Watch(Later<Watch>),
    /// Write configuration files from templates, anew with each change
    Render(Later<Render>),
    /// Register an address, and keep it registered until Ctrl-C or SIGTERM
    Register(Later<Register>),
    /// Run a program, and keep it registered while it runs and accepts connections
    Run(Later<Run>),
    /// Show which instances a client would get
    Pick(Later<Pick>),
    /// Send an HTTP request to a picked instance
    Call(Later<Call>),
    /// Forward what is sent to NAME.localhost to an instance, for programs in any language
    Proxy(Later<crate::proxy::Settings>),
    /// Deregister an instance that nobody else does
    Deregister(Later<Deregister>),
    /// Take an instance out of use without deregistering it, or back into use
    Maintenance(Later<Maintenance>),
    /// Find out why nothing shows up
    Doctor(Later<Doctor>),
    /// Watch everything live, on the full screen
    Top(Later<Top>),
    /// Serve a live page of everything, and the same for programs, by HTTP
    Serve(Later<Serve>),
    /// Names for registries, one of them the current one
    Context(Later<Context>),
    /// Print the completions of a shell
    Completions(Later<Completions>),
    /// Print the manual page, or write all of them into a directory
    Man(Later<Man>),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Services {
    /// Those of all namespaces, and of none
    #[arg(long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, Args)]
pub(crate) struct Instances {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services), required_unless_present = "all")]
    pub(crate) service: Option<ServiceName>,
    /// The instances of all services
    #[arg(short = 'A', long, conflicts_with = "service")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) filter: InstanceFilter,
    /// Only instances that are passing or warning
    #[arg(long)]
    pub(crate) healthy: bool,
    #[command(flatten)]
    pub(crate) list: List,
}

/// How a list is written.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// `wide` cuts nothing; `json`, `yaml`, `name`, or a template for each item: template='{{ id }} {{ address }}'
    #[arg(short, long, value_name = "FORMAT", add = ArgValueCompleter::new(complete::list_formats))]
    pub(crate) output: Option<Format>,
    /// Sort by a field, such as `id`, `version` or `metadata.zone`; with a minus before it the other way round
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true, add = ArgValueCompleter::new(complete::sort_fields))]
    pub(crate) sort: Option<Sort>,
    /// Leave out the heads of the columns
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// The form of what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table in which nothing is cut.
    Wide,
    Json,
    Yaml,
    /// `SERVICE`, or `SERVICE/ID`.
    Name,
    Template(String),
}

impl Format {
    /// Whether it is a table, which people read.
    pub(crate) fn is_for_people(format: Option<&Self>) -> bool {
        matches!(format, None | Some(Self::Wide))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Name => "name",
            Self::Template(_) => "template",
        }
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "wide" => Ok(Self::Wide),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            "name" => Ok(Self::Name),
            _ => match text.split_once('=') {
                Some(("template", template)) => Ok(Self::Template(template.into())),
                _ => Err("is none of wide, json, yaml, name, template=TEXT"),
            },
        }
    }
}

/// What a list is sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sort {
    pub(crate) field: String,
    pub(crate) descending: bool,
}

impl FromStr for Sort {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let field = text.strip_prefix('-');
        Ok(Self { field: field.unwrap_or(text).into(), descending: field.is_some() })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// The instance; all of them if left out
    #[arg(add = ArgValueCompleter::new(complete::ids))]
    pub(crate) id: Option<InstanceId>,
    /// `json`, `yaml`, or a template: template='{{ instances | length }}'
    #[arg(short, long, value_name = "FORMAT", add = ArgValueCompleter::new(complete::formats))]
    pub(crate) output: Option<Format>,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// The instance; any if left out
    #[arg(add = ArgValueCompleter::new(complete::ids))]
    pub(crate) id: Option<InstanceId>,
    /// Until so many instances are passing or warning
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) healthy: u32,
    /// Until there is no instance, of whatever health
    #[arg(long, conflicts_with = "healthy")]
    pub(crate) gone: bool,
    #[command(flatten)]
    pub(crate) filter: InstanceFilter,
}

/// Which instances count; all that is given must hold.
#[derive(Debug, Args)]
pub(crate) struct InstanceFilter {
    /// Only instances of this version
    #[arg(long)]
    pub(crate) version: Option<String>,
    /// Only instances with this tag; may be given several times
    #[arg(long)]
    pub(crate) tag: Vec<String>,
    /// Only instances with this metadata; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) meta: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The service; all of them if left out
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: Option<ServiceName>,
    #[command(flatten)]
    pub(crate) hook: Hook,
}

/// A command that is run after changes.
#[derive(Debug, Args)]
pub(crate) struct Hook {
    /// Run this shell command after changes; never two at once. `watch` gives it the instances as JSON on standard input
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString)]
    pub(crate) exec: Option<String>,
    /// How long to wait for more changes; those that do not stop are told after ten times that
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "250ms")]
    pub(crate) debounce: Duration,
    /// How long the command may take before it is killed
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub(crate) exec_timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Render {
    /// A template and the file to write, `-` for standard output; may be given several times
    #[arg(required = true, num_args = 2.., value_names = ["TEMPLATE", "OUT"], value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// Write once, and end
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) hook: Hook,
}

#[derive(Debug, Args)]
pub(crate) struct Register {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// Where it listens, as HOST:PORT; 0.0.0.0 and [::] become an address of this machine
    #[arg(value_hint = ValueHint::Hostname)]
    pub(crate) address: String,
    #[command(flatten)]
    pub(crate) details: Details,
}

/// What is told of an instance, and how it is kept registered.
#[derive(Debug, Args)]
pub(crate) struct Details {
    /// The id of the instance; a random one if left out
    #[arg(long)]
    pub(crate) id: Option<InstanceId>,
    /// The version
    #[arg(long)]
    pub(crate) version: Option<String>,
    /// Metadata; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) meta: Vec<(String, String)>,
    /// A tag; may be given several times
    #[arg(long)]
    pub(crate) tag: Vec<String>,
    /// The name of an endpoint, such as Greeter.Hello; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) endpoint: Vec<String>,
    /// The share of traffic, relative to other instances
    #[arg(long, default_value_t = 1)]
    pub(crate) weight: u16,
    /// How long the registration lasts without renewal [default: three times the interval]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// The time between renewals [default: 30s, or a third of the TTL if that is shorter]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) interval: Option<Duration>,
    /// Registered only while this URL answers with 2xx; {host} and {port} stand for the instance's
    #[arg(long, value_name = "URL")]
    pub(crate) check_http: Option<String>,
    /// Registered only while this accepts connections; the instance's address if left out
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "{host}:{port}")]
    pub(crate) check_tcp: Option<String>,
    /// Registered only while gRPC's health service says SERVING, of a service or of the whole server
    #[arg(long, value_name = "HOST:PORT[/SERVICE]", num_args = 0..=1, require_equals = true, default_missing_value = "{host}:{port}")]
    pub(crate) check_grpc: Option<String>,
    /// Registered only while this shell command succeeds; it finds the instance in HOST and PORT
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString)]
    pub(crate) check_cmd: Option<String>,
    /// The time between checks
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(crate) check_interval: Duration,
    /// Withdrawn after so many failed checks in a row
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) unhealthy_after: u32,
    /// Back after so many passed checks in a row
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) healthy_after: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// The port the program will listen on; 0 chooses a free one. The program finds it in PORT
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// The host under which others reach the program [default: an address of this machine that accepts]
    #[arg(long, value_hint = ValueHint::Hostname)]
    pub(crate) host: Option<String>,
    #[command(flatten)]
    pub(crate) details: Details,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments, add = ArgValueCompleter::new(CommandLine))]
    pub(crate) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Pick {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// How many picks to make
    #[arg(short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) choice: Choice,
}

/// How an instance is chosen.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// The strategy [default: random; hash if a key is given]
    #[arg(long)]
    pub(crate) strategy: Option<StrategyName>,
    /// Requests of one key go to one instance
    #[arg(long)]
    pub(crate) key: Option<String>,
    #[command(flatten)]
    pub(crate) filter: InstanceFilter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// At random, by weight
    Random,
    /// One after the other, by weight
    RoundRobin,
    /// The one of two with fewer calls in flight
    LeastRequest,
    /// The one of two with less expected latency
    PeakEwma,
    /// The one that a key always goes to
    Hash,
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "curl's switches")]
pub(crate) struct Call {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// The path and query, such as /hello?name=you
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// The method [default: GET, or POST with data]
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// A header, as `Name: value`; may be given several times
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// The body; @FILE reads it from a file, @- from standard input. Several are joined by `&`
    #[arg(short = 'd', long = "data", value_name = "DATA", add = ArgValueCompleter::new(complete::data))]
    pub(crate) data: Vec<String>,
    /// Show the status line and headers too
    #[arg(short = 'i', long)]
    pub(crate) include: bool,
    /// Exit with 1 and show no body when the status is 400 or more
    #[arg(short = 'f', long)]
    pub(crate) fail: bool,
    /// Speak HTTPS
    #[arg(long)]
    pub(crate) https: bool,
    /// With HTTPS: take any certificate, also a forged one
    #[arg(short = 'k', long)]
    pub(crate) insecure: bool,
    /// Follow redirects, 50 at most
    #[arg(short = 'L', long)]
    pub(crate) location: bool,
    /// Write what was answered into a file
    #[arg(short = 'o', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Do not say which instance answered; errors are still told
    #[arg(short = 's', long)]
    pub(crate) silent: bool,
    #[command(flatten)]
    pub(crate) choice: Choice,
}

#[derive(Debug, Args)]
pub(crate) struct Deregister {
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// The instance
    #[arg(add = ArgValueCompleter::new(complete::ids))]
    pub(crate) id: InstanceId,
    /// Succeed when there is no such instance
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Maintenance {
    /// Out of use, or back into use
    pub(crate) state: OnOff,
    /// The service
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: ServiceName,
    /// The instance
    #[arg(add = ArgValueCompleter::new(complete::ids))]
    pub(crate) id: InstanceId,
    /// Why, for people who wonder
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct Context {
    #[command(subcommand)]
    pub(crate) action: ContextAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextAction {
    /// List them; of a registry's URL without credentials
    List,
    /// Print the name of the current one
    Current,
    /// Make one the current one
    Use {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::contexts))]
        name: String,
    },
    /// Give a registry a name, or a name another registry
    Set {
        /// Its name
        #[arg(value_parser = context_name, add = ArgValueCompleter::new(complete::contexts))]
        name: String,
        /// The registry's URL; credentials are better left to `token_file` and the environment
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        url: String,
    },
    /// Give one another name
    Rename {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::contexts))]
        old: String,
        /// The name that it gets
        #[arg(value_parser = context_name)]
        new: String,
    },
    /// Forget one
    Delete {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::contexts))]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The service that is missed; its rights are what a token is asked for
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: Option<ServiceName>,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The service; all of them if left out
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: Option<ServiceName>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen, as IP:PORT; port 0 is a free one. Beyond loopback a token is asked for
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9749", value_parser = socket)]
    pub(crate) listen: SocketAddr,
    /// Ask for the token in this file [default: none on loopback, elsewhere a new one, which is printed]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// A name that browsers reach it by, beside localhost and IP addresses; may be given several times
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Hostname)]
    pub(crate) allow_host: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where to write the pages of all commands
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("is no time at all".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}; write 500ms, 10s, 5m or 1h")),
    }
}

fn context_name(text: &str) -> Result<String, &'static str> {
    match text {
        _ if text.trim().is_empty() => Err("is empty"),
        _ if text.contains(char::is_control) => Err("has a control character"),
        _ => Ok(text.into()),
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not IP:PORT; write 127.0.0.1:9749, [::1]:9749 or 0.0.0.0:9749".into())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("is not KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_and_pairs_are_read() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("0s").is_err());
        assert!(duration("5").unwrap_err().contains("write 500ms"));
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err());
        assert!(pair("a").is_err());
    }
}
