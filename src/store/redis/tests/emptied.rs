//! A Redis that has lost what it held: nobody is granted anything twice, and it learns again.

use super::*;

/// So many calls of one unit each, settled at once; how many were admitted, and how often nobody knew: such a
/// call comes again, though Redis may have counted it.
async fn admitted(replica: &Replica, account: &Account, calls: usize) -> (usize, usize) {
    let (mut admitted, mut unknown) = (0, 0);
    for _ in 0..calls {
        let (verdict, lost) = replica.surely(account, 1, 1).await;
        unknown += lost;
        if let Verdict::Admitted(grant) = verdict {
            replica.settle(account, &grant.hold, 1, 1);
            admitted += 1;
        }
    }
    (admitted, unknown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_no_new_beginning() {
    for is_restarted in [true, false] {
        let nothing = |_: &std::path::Path| Vec::new();
        let Some(mut server) = RedisServer::start_with(nothing).await else { return };
        let replicas = replicas(&server, 2, OnDown::Local).await;
        let minute = |key: &str, requests, tokens| Account {
            key: key.into(),
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            ..Account::default()
        };
        let accounts = [
            budget("money", 100),
            minute("requests", Some(100), None),
            minute("tokens", None, Some(100)),
        ];
        let mut before = Vec::new();
        for account in &accounts {
            before.push(admitted(&replicas[0], account, 80).await);
        }
        eventually("all is told", || async {
            let standing = replicas[1].store.look(&accounts[0]).await;
            (standing.budget?.used.0 == 80).then_some(())
        })
        .await;
        let birth = server.say("GET cirque:{replicas}:birth").await.unwrap();
        if is_restarted {
            server.kill();
            replicas[1].becomes("away", |health| !health.is_up).await;
            server.restart().await;
        } else {
            server.say("FLUSHALL").await.unwrap();
        }
        eventually("another birth", || async {
            let now = server.say("GET cirque:{replicas}:birth").await?;
            (now.len() > 10 && now != birth).then_some(())
        })
        .await;
        for replica in &replicas {
            // While one of them gathers, it may take what is its own, and no more.
            replica
                .becomes("up again", |health| health.is_up && health.lasting.as_secs() < 60)
                .await;
        }
        for (account, before) in accounts.iter().zip(before) {
            let (mut all, mut lost) = before;
            for replica in replicas.iter().rev() {
                let more = admitted(replica, account, 100).await;
                (all, lost) = (all + more.0, lost + more.1);
            }
            let what = format!("{all} of {}, restarted: {is_restarted}", account.key);
            assert!(all <= 100 && all + lost >= 100, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_loses_under_a_connection_is_granted_to_nobody_again() {
    let Some(server) = RedisServer::start().await else { return };
    let replicas = replicas(&server, 2, OnDown::Deny).await;
    let minute = Account {
        key: "minute".into(),
        requests_per_minute: Some(100),
        tokens_per_minute: Some(100),
        ..Account::default()
    };
    for account in [budget("money", 100), minute] {
        let before = admitted(&replicas[0], &account, 80).await;
        server.say("FLUSHALL").await.unwrap();
        // The first ones long before anybody's next beat.
        let after = admitted(&replicas[1], &account, 100).await;
        let (admitted, lost) = (before.0 + after.0, before.1 + after.1);
        assert!(admitted <= 100, "{admitted}, {}", account.key);
        assert!(admitted + lost >= 100, "{admitted}, {}", account.key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_everything_learns_it_again() {
    let nothing = |_: &std::path::Path| Vec::new();
    let Some(mut server) = RedisServer::start_with(nothing).await else { return };
    let replicas = replicas(&server, 2, OnDown::Local).await;
    let account = Account { concurrent: Some(3), ..budget("k", 100_000) };
    for replica in &replicas {
        let grant = granted(replica.admit(&account, 0, 1_000).await);
        replica.settle(&account, &grant.hold, 0, 700);
    }
    granted(replicas[0].admit(&account, 0, 1_000).await);
    server.kill();
    server.restart().await;
    for replica in &replicas {
        replica.becomes("connected again", |health| health.is_up && health.untold.0 == 0).await;
    }
    let standing = eventually("both have told", || async {
        let standing = replicas[1].store.look(&account).await;
        (standing.budget?.used.0 == 1_400).then_some(standing)
    })
    .await;
    assert!(standing.budget.unwrap().reserved.0 >= 1_000);
    assert_eq!(standing.concurrent.unwrap().remaining, 2);
    server.say("SCRIPT FLUSH").await.unwrap();
    granted(replicas[0].admit(&account, 0, 1_000).await);
}
