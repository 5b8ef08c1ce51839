//! Why a request came to nothing, in etcd's words and in ours.

use std::error::Error as _;

use switchboard_core::{Error, ErrorKind};
use tonic::{Code, Status};

use crate::BACKEND;

/// A request that came to nothing.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) operation: &'static str,
    /// The cluster.
    pub(crate) at: String,
    /// The member.
    pub(crate) host: String,
    pub(crate) status: Status,
}

impl Failure {
    /// Whether the lease has ended, or was revoked.
    pub(crate) fn lost_lease(&self) -> bool {
        self.status.code() == Code::NotFound && self.status.message().contains("lease")
    }

    /// Whether the answer was more than is taken at once.
    pub(crate) fn was_too_large(&self) -> bool {
        self.status.code() == Code::OutOfRange && self.status.message().contains("message length too large")
    }

    /// Whether another member, or another connection, may do better.
    pub(crate) fn may_pass_elsewhere(&self) -> bool {
        match self.status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => true,
            // A connection that broke.
            Code::Unknown | Code::Internal => self.status.source().is_some(),
            // Not if the member's disk is full: then all are.
            Code::ResourceExhausted => self.status.message().contains("too many requests"),
            _ => false,
        }
    }

    /// Whether there is no leader at present: "no leader", "leader changed".
    pub(crate) fn is_of_an_election(&self) -> bool {
        self.status.code() == Code::Unavailable && self.status.message().contains("leader")
    }

    fn kind(&self) -> ErrorKind {
        let said = self.status.message();
        match self.status.code() {
            Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
            Code::InvalidArgument
                if said.contains("authentication failed") || said.contains("user name is empty") =>
            {
                ErrorKind::PermissionDenied
            }
            Code::InvalidArgument | Code::Unimplemented | Code::DataLoss | Code::OutOfRange => {
                ErrorKind::Protocol
            }
            _ => ErrorKind::Unavailable,
        }
    }

    /// In words.
    pub(crate) fn said(&self) -> String {
        let (said, host) = (self.status.message(), &self.host);
        let mut innermost = self.status.source();
        while let Some(deeper) = innermost.and_then(|error| error.source()) {
            innermost = Some(deeper);
        }
        match innermost {
            Some(cause) => format!("cannot speak to {host}: {cause}"),
            None if self.status.code() == Code::DeadlineExceeded => format!("{host}: {said}"),
            None if said.contains("database space exceeded") => {
                format!("{said}; make room (etcdctl compact, etcdctl defrag) and then etcdctl alarm disarm")
            }
            None if said.contains("user name is empty") => {
                format!("{said}; set ETCDCTL_USER, or write ?user=NAME&password=…")
            }
            None if said.is_empty() => format!("{host} answers with {:?}", self.status.code()),
            None => said.to_owned(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let message = format!("{}: {}", failure.at, failure.said());
        Self::new(failure.kind(), BACKEND, failure.operation, message).with_source(failure.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: Status) -> Failure {
        Failure { operation: "lookup", at: "etcd://a:1/sb".into(), host: "a:1".into(), status }
    }

    #[test]
    fn errors_say_what_to_do() {
        for (status, kind, expected) in [
            (
                Status::unavailable("etcdserver: no leader"),
                ErrorKind::Unavailable,
                "etcd://a:1/sb: etcdserver: no leader",
            ),
            (
                Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
                ErrorKind::Unavailable,
                "etcd://a:1/sb: etcdserver: mvcc: database space exceeded; make room (etcdctl compact, etcdctl \
                 defrag) and then etcdctl alarm disarm",
            ),
            (
                Status::invalid_argument("etcdserver: user name is empty"),
                ErrorKind::PermissionDenied,
                "etcd://a:1/sb: etcdserver: user name is empty; set ETCDCTL_USER, or write \
                 ?user=NAME&password=…",
            ),
            (
                Status::permission_denied("etcdserver: permission denied"),
                ErrorKind::PermissionDenied,
                "etcd://a:1/sb: etcdserver: permission denied",
            ),
            (Status::aborted(""), ErrorKind::Unavailable, "etcd://a:1/sb: a:1 answers with Aborted"),
        ] {
            let error = Error::from(failure(status));
            assert_eq!((error.kind(), error.message()), (kind, expected));
        }
    }

    #[test]
    fn only_what_another_member_may_mend_is_tried_there() {
        assert!(failure(Status::unavailable("etcdserver: no leader")).may_pass_elsewhere());
        assert!(failure(Status::resource_exhausted("etcdserver: too many requests")).may_pass_elsewhere());
        assert!(
            !failure(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"))
                .may_pass_elsewhere()
        );
        assert!(!failure(Status::permission_denied("no")).may_pass_elsewhere());
        assert!(!failure(Status::unknown("etcdserver: something")).may_pass_elsewhere());
    }
}
