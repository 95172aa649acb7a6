/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The peer of one session under test: it makes frames by hand, in or out of their place, and looks at what
 * the session answers.
 */

#include "proto/session.h"
#include "../suite.h"

#define GUEST_NONCE "000102030405060708090a0b0c0d0e0f"
#define HOST_NONCE "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"

extern Session *session;
extern SessionEvent e; /* the last one */
extern uint64_t epoch; /* of the session that is up */
extern uint32_t seq;   /* of our next frame to the session */

void on_random(void *userdata, void *buf, size_t n);
void inject(const void *data, size_t n);
void say_raw(FrameHeader h, const void *body);
void say(uint8_t type, uint32_t stream, const void *body, size_t n);
void say_text(uint8_t type, uint32_t stream, const char *text);
FrameHeader hear(const uint8_t **ret_body);
Message hear_message(uint8_t type, uint32_t stream);
void hear_nothing(void);
void expect(SessionEventType type);
void expect_nothing(void);
void begin(SessionRole role, SessionPort port);
void end(void);
uint64_t epoch_of(const char *host, const char *guest);
void answer_hello(const char *version);
void begin_host(SessionPort port);
void say_hello(SessionPort port, const char *version);
void start(void);
void begin_guest(SessionPort port);
void expect_broken(SessionRole role);
