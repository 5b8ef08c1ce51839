//! What an operator asks when something does not work. Nothing here writes anything.

use switchboard_core::{InstanceId, Result, ServiceName};

use crate::backend::EtcdRegistry;
use crate::client::{Client, keys_of};
use crate::record;
use crate::wire::{
    Alarm, AlarmRequest, AlarmType, Compare, CompareTarget, Compared, MemberListRequest, PutRequest,
    RangeRequest, StatusRequest, TxnRequest,
};

/// How a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStatus {
    /// Its version of etcd, such as `3.5.17`.
    pub version: String,
    /// The leader's name, or its id if it has none; `None` if the member knows of no leader.
    pub leader: Option<String>,
    /// The size of its database, in bytes.
    pub db_size: u64,
}

impl EtcdRegistry {
    /// The URLs of the endpoints, as `http://HOST:PORT` or `https://HOST:PORT`.
    pub fn endpoints(&self) -> Vec<String> {
        let members = self.client().settings.members.iter();
        members.map(|member| member.endpoint.uri().to_string().trim_end_matches('/').to_owned()).collect()
    }

    /// Asks every endpoint how it is, each by itself and within the timeout: `HOST:PORT`, and the answer.
    pub async fn members(&self) -> Vec<(String, Result<MemberStatus>)> {
        let client = self.client();
        let members = 0..client.settings.members.len();
        futures::future::join_all(members.map(|member| async move {
            (client.settings.members[member].host.clone(), status(client, member).await)
        }))
        .await
    }

    /// The alarms that are raised: a member and what is wrong with it, such as `NOSPACE`. Until they are disarmed nothing is written.
    ///
    /// # Errors
    ///
    /// As for any request; also if the user may not ask.
    pub async fn alarms(&self) -> Result<Vec<(String, String)>> {
        let client = self.client();
        let alarms = client.call("alarms", AlarmRequest {}).await?.alarms;
        let members = client.call("alarms", MemberListRequest {}).await.unwrap_or_default().members;
        let named = |alarm: Alarm| {
            let what = match alarm.alarm() {
                AlarmType::NoSpace => "NOSPACE",
                AlarmType::Corrupt => "CORRUPT",
                AlarmType::None => "an alarm",
            };
            (name_of(&members, alarm.member_id), what.to_owned())
        };
        Ok(alarms.into_iter().map(named).collect())
    }

    /// Whether this handle may read a service, or all of them.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if it may not; as for any request.
    pub async fn may_read(&self, service: Option<&ServiceName>) -> Result<()> {
        let settings = &self.client().settings;
        let root = match service {
            Some(service) => record::service_root(&settings.prefix, settings.wire, service),
            None => record::root(&settings.prefix),
        };
        let (key, range_end) = keys_of(&root);
        let request = RangeRequest { key, range_end, limit: 1, revision: 0, keys_only: true };
        self.client().call("may_read", request).await?;
        Ok(())
    }

    /// Whether this handle may register instances of a service. Nothing is written.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if it may not; as for any request.
    pub async fn may_register(&self, service: &ServiceName) -> Result<()> {
        let settings = &self.client().settings;
        let Ok(id) = InstanceId::new("switchboard-doctor") else { return Ok(()) };
        let key = record::key(&settings.prefix, settings.wire, service, &id).into_bytes();
        // etcd looks at the rights for both branches, and takes the empty one: no version is below zero.
        let never = Compare {
            target: CompareTarget::Version.into(),
            key: key.clone(),
            with: Some(Compared::Version(-1)),
        };
        let put = PutRequest { key, value: vec![], lease: 0 }.into();
        let request = TxnRequest { compare: vec![never], success: vec![put], failure: vec![] };
        self.client().call("may_register", request).await?;
        Ok(())
    }
}

async fn status(client: &Client, member: usize) -> Result<MemberStatus> {
    let answer = client.call_member("members", member, StatusRequest {}).await?;
    let leader = match answer.leader {
        0 => None,
        id => {
            let members = client.call_member("members", member, MemberListRequest {}).await;
            Some(name_of(&members.unwrap_or_default().members, id))
        }
    };
    Ok(MemberStatus { version: answer.version, leader, db_size: answer.db_size.try_into().unwrap_or(0) })
}

fn name_of(members: &[crate::wire::Member], id: u64) -> String {
    let found = members.iter().find(|member| member.id == id && !member.name.is_empty());
    found.map_or_else(|| format!("{id:x}"), |member| member.name.clone())
}
