//! The manual pages: what clap knows, and what it does not.

use std::io;
use std::path::Path;

use clap::Command;

/// What scripts rely on.
const EXIT_STATUS: &str = r#"
.SH "EXIT STATUS"
.TP
0
Done. That nothing was found is no failure of \fBservices\fR and \fBinstances\fR.
.TP
1
Failed; standard error says why in one line.
.TP
2
Bad usage.
.TP
126, 127
\fBrun\fR could not start the program: it is no program, or there is none of that name. Otherwise \fBrun\fR returns the
program's own code, and 128 + N when signal N ended it.
"#;

const ENVIRONMENT: &str = r"
.SH ENVIRONMENT
.TP
SWITCHBOARD_REGISTRY
The registry when neither \fB\-\-registry\fR nor \fB\-\-context\fR is given; unset or empty it is that of the current
context, and without one mdns:.
.TP
SWITCHBOARD_NAMESPACE
The namespace when neither \fB\-\-namespace\fR nor the registry's URL names one.
.TP
SWITCHBOARD_CONFIG
The file with the contexts, by default $XDG_CONFIG_HOME/switchboard/config.toml or ~/.config/switchboard/config.toml.
.TP
CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, CONSUL_CACERT, …
What Consul's own command reads, for consul: registries.
.TP
ETCDCTL_ENDPOINTS, ETCDCTL_USER, ETCDCTL_CACERT, …
What etcd's own command reads, for etcd: registries.
.TP
NO_COLOR
No colours.
.TP
PORT
Set by \fBrun\fR for the program: the port to listen on. \fB\-\-check\-cmd\fR finds HOST and PORT.
";

/// By command; the empty name is the page of all.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "",
        &[
            ("What is there:", "switchboard services"),
            ("The same on Consul:", "switchboard services --registry consul://127.0.0.1:8500"),
            ("Any program as a service:", "switchboard run web -- sh -c 'exec python3 -m http.server $PORT'"),
        ],
    ),
    (
        "services",
        &[(
            "Services without a healthy instance:",
            "switchboard services --json | jq '.[]|select(.healthy==0).name'",
        )],
    ),
    (
        "instances",
        &[
            ("Healthy instances in zone a:", "switchboard instances web --healthy --meta zone=a"),
            (
                "Where everything is, one line each:",
                "switchboard instances -A -o template='{{ service }} {{ address }}'",
            ),
        ],
    ),
    ("describe", &[("What the checks of one instance say:", "switchboard describe web web-1")]),
    (
        "wait",
        &[
            (
                "Until two instances of the new version are healthy:",
                "switchboard wait web --healthy 2 --version 2.0.0 --timeout 2m",
            ),
            ("Until one has left:", "switchboard wait web web-1 --gone"),
        ],
    ),
    (
        "watch",
        &[
            ("The next change as JSON:", "switchboard watch web --json | head -n 1"),
            ("A command for each change:", "switchboard watch web --exec 'jq -r .[].id > instances'"),
        ],
    ),
    (
        "render",
        &[(
            "nginx, reloaded when instances come and go:",
            "switchboard render web.j2 /etc/nginx/conf.d/web.conf --exec 'nginx -t && nginx -s reload'",
        )],
    ),
    (
        "register",
        &[(
            "With a check:",
            "switchboard register web 0.0.0.0:8080 --check-http http://{host}:{port}/health",
        )],
    ),
    (
        "run",
        &[(
            "On a free port, which the program finds in PORT:",
            "switchboard run web -- sh -c 'exec python3 -m http.server $PORT'",
        )],
    ),
    ("pick", &[("How requests are shared out:", "switchboard pick web -n 1000 --strategy round-robin")]),
    (
        "call",
        &[(
            "Post JSON to one instance:",
            "switchboard call web /orders -d @order.json -H 'content-type: application/json'",
        )],
    ),
    (
        "proxy",
        &[
            ("Any program calls web as http://web.localhost:8080/:", "switchboard proxy"),
            ("And finds the database on its usual port:", "switchboard proxy --tcp 5432=db"),
        ],
    ),
    ("deregister", &[("What a dead machine left behind:", "switchboard deregister web web-1")]),
    (
        "maintenance",
        &[
            ("Out of use:", "switchboard maintenance on web web-1 --reason 'a new disk'"),
            ("Back:", "switchboard maintenance off web web-1"),
        ],
    ),
    (
        "context",
        &[(
            "The registry of production, used from now on:",
            "switchboard context set prod 'consul://consul.example.com:8500?token_file=/run/secrets/consul' && switchboard context use prod",
        )],
    ),
    ("doctor", &[("Why nobody sees web:", "switchboard doctor web")]),
    ("top", &[("One service:", "switchboard top web")]),
    ("serve", &[("To others, with a token that it prints:", "switchboard serve --listen 0.0.0.0:9749")]),
    ("completions", &[("For bash, in ~/.bashrc:", "source <(switchboard completions bash)")]),
    ("man", &[("All pages:", "switchboard man ~/.local/share/man/man1")]),
];

/// The page of one command.
pub(crate) fn page(command: Command) -> io::Result<String> {
    let name = command.get_name().to_owned();
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    // clap_mangen leaves out what separates the program of `run` from the options.
    let page = page.replacen(r"<\fICMD\fR>", r"\-\- <\fICMD\fR>...", 1);
    let own = format!("{ENVIRONMENT}{EXIT_STATUS}{}", examples(&name));
    Ok(match page.find(".SH VERSION") {
        Some(version) => format!("{}{}\n{}", &page[..version], own.trim_start(), &page[version..]),
        None => format!("{page}{}", own.trim_start()),
    })
}

/// Writes the pages of a command and of all below it.
pub(crate) fn write_all(mut command: Command, directory: &Path) -> io::Result<()> {
    // Names and global options are handed down.
    command.build();
    write(command, directory)
}

fn write(command: Command, directory: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        write(below.clone(), directory)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    std::fs::write(directory.join(format!("{name}.1")), page(command)?)
}

fn examples(name: &str) -> String {
    let name = if name == "switchboard" { "" } else { name };
    let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == name) else { return String::new() };
    let mut text = String::from("\n.SH EXAMPLES\n");
    for (what, line) in *examples {
        // In roff a backslash and a hyphen are more than themselves.
        let line = line.replace('\\', r"\e").replace('-', r"\-").replace('\'', r"\(aq");
        text.extend([".PP\n", *what, "\n.PP\n.nf\n.RS\n", &line, "\n.RE\n.fi\n"]);
    }
    text
}
