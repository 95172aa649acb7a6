/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The sender's conversation: which of its works is next, and what the receiver's words do to it. Contents
 * are read straight behind their record headers into the caller's buffer. Offered entries wait in a ring,
 * open, until the receiver has said what it wants of them; their contents go out in order.
 */

#include "files/sender-state.h"

#include "base/base.h"

#define ROOM_MIN 512u /* less than that is not worth a DATA record */

static void offer_done(Offer *o)
{
        (void)fd_close(o->fd);
        free(o->path);
        free(o->blocks);
        *o = (Offer){ .fd = -EBADF };
}

Offer *sender_offer_at(Sender *s, size_t i)
{
        return &s->offers[(s->offers_first + i) % OFFERS_AHEAD];
}

Sender *sender_free(Sender *s)
{
        if (!s)
                return NULL;
        for (size_t i = 0; i < s->n_offers; i++)
                offer_done(sender_offer_at(s, i));
        if (s->reading)
                content_done(&s->content);
        (void)walk_free(s->scan);
        (void)walk_free(s->walk);
        (void)links_free(s->scan_links);
        (void)links_free(s->links);
        (void)fd_close(s->root_fd);
        (void)digest_free(s->digest);
        attributes_done(&s->attributes);
        record_buffer_done(&s->out);
        (void)record_parser_free(s->parser);
        free(s->content_path);
        free(s->held_path);
        free(s->held_target);
        free(s->text);
        free(s->path);
        free(s);
        return NULL;
}

/* The first offer was answered: its content is next, or it is done. */
static void take_offer(Sender *s)
{
        Offer *o = sender_offer_at(s, 0);

        s->offers_first = (s->offers_first + 1) % OFFERS_AHEAD;
        s->n_offers--;
        if (o->want != WANT_NONE) {
                content_init(&s->content, TAKE_FD(o->fd), &o->st, false, s->source.is_tree ? 0 : s->base,
                             o->number, s->digest);
                free(s->content_path);
                s->content_path = TAKE(o->path);
                s->reading = true;
                if (o->want == WANT_REST)
                        (void)content_resume(&s->content, o->size, o->blocks, o->n_blocks);
        }
        offer_done(o);
}

static void stop_reading(Sender *s)
{
        content_done(&s->content);
        s->reading = false;
}

typedef enum Step { STEP_ON, STEP_WAIT, STEP_SLICE } Step;

static Step read_step(Sender *s, uint8_t *buf, size_t n, size_t *ret_n)
{
        const size_t head = RECORD_HEADER_SIZE + RECORD_DATA_PREFIX;
        const char *path = s->content_path ? s->content_path : "";
        uint64_t number = s->content.number, offset;
        ssize_t k;

        k = content_read(&s->content, buf + head, MIN(n, RECORD_HEADER_SIZE + RECORD_BODY_MAX) - head,
                         &offset);
        if (k == -EAGAIN)
                return STEP_WAIT;
        if (k == -EINPROGRESS)
                return STEP_SLICE;
        if (k > 0) {
                record_format_data(buf, number, offset, (size_t)k);
                s->progress.n_bytes_sent += (uint64_t)k;
                *ret_n = head + (size_t)k;
                return STEP_ON;
        }
        if (k == 0) {
                s->progress.digest = digest_value(s->digest);
                (void)record_put_file_end(&s->out, number, s->content.size, s->progress.digest);
        } else if (k == -ESTALE)
                sender_put_failed(s, number, false, WIRE_SOURCE_CHANGED, "It changed while it was read", 0,
                                  path);
        else
                sender_put_errno(s, number, "Cannot read it", (int)-k, path);
        stop_reading(s);
        return STEP_ON;
}

static Step step(Sender *s, uint8_t *buf, size_t n, size_t *ret_n)
{
        SenderSource found;

        if (!s->scan_done) {
                if (sender_scan(s, &found) > 0)
                        return STEP_SLICE;
                return STEP_ON;
        }
        if (!s->started) {
                s->started = true;
                (void)record_put_totals(&s->out, s->source.n_bytes, s->source.n_files, s->n_allocated);
                return STEP_ON;
        }
        if (s->reading)
                return read_step(s, buf, n, ret_n);
        if (s->n_offers > 0 && sender_offer_at(s, 0)->answered) {
                take_offer(s);
                return STEP_ON;
        }
        if (s->held_path && s->n_offers == 0) {
                sender_put_link(s, ENTRY_HARDLINK, &s->held_st, s->held_path, s->held_target);
                free(TAKE(s->held_path));
                free(TAKE(s->held_target));
                return STEP_ON;
        }
        if (!s->walked && !s->held_path && s->n_offers < OFFERS_AHEAD) {
                sender_next_object(s);
                return STEP_ON;
        }
        if (s->n_offers > 0)
                return STEP_WAIT;
        (void)record_put_end(&s->out);
        s->ended = true;
        return STEP_ON;
}

ssize_t sender_fill(Sender *s, uint8_t *buf, size_t n)
{
        size_t done = 0;

        for (;;) {
                size_t k = 0;
                Step next;

                if (s->progress.done) /* the receiver had enough */
                        return done > 0 ? (ssize_t)done : -ENODATA;
                done += record_buffer_take(&s->out, buf + done, n - done);
                if (s->out.n > 0 || (done > 0 && n - done < ROOM_MIN))
                        return (ssize_t)done;
                if (s->ended)
                        return done > 0 ? (ssize_t)done : -ENODATA;
                next = step(s, buf + done, n - done, &k);
                done += k;
                if (next == STEP_WAIT)
                        return (ssize_t)done;
                if (next == STEP_SLICE) {
                        if (done > 0)
                                return (ssize_t)done;
                        /* A sign of life, so that the caller comes again, and the peer sees that we are at
                         * work. */
                        if (record_put_totals(&s->out, s->scan_done ? s->source.n_bytes : SIZE_UNKNOWN,
                                              s->scan_done ? s->source.n_files : SIZE_UNKNOWN,
                                              s->scan_done ? s->n_allocated : SIZE_UNKNOWN) < 0)
                                return 0;
                        return (ssize_t)record_buffer_take(&s->out, buf, n);
                }
        }
}

static void set_result(Sender *s, const Record *r)
{
        char *text = strdup(r->text), *path = strdup(r->path);

        free(s->text);
        free(s->path);
        s->text = text;
        s->path = path;
        s->progress.error = r->error;
        s->progress.text = text ? text : "";
        s->progress.path = path ? path : "";
}

static Offer *find_offer(Sender *s, uint64_t number)
{
        for (size_t i = 0; i < s->n_offers; i++)
                if (sender_offer_at(s, i)->number == number)
                        return sender_offer_at(s, i);
        return NULL;
}

static int on_want(Sender *s, const Record *r, const char **ret_why)
{
        Offer *o = find_offer(s, r->entry);

        if (!o || o->answered) {
                *ret_why = "a WANT is for nothing that was offered";
                return -EBADMSG;
        }
        o->answered = true;
        o->want = r->want;
        if (r->want != WANT_REST)
                return 0;
        o->size = r->size;
        if (r->n_blocks > 0) {
                o->blocks = malloc(r->n_blocks * 8);
                if (!o->blocks)
                        return 0; /* nothing agrees then */
                memcpy(o->blocks, r->blocks, r->n_blocks * 8);
                o->n_blocks = r->n_blocks;
        }
        return 0;
}

static void on_failed(Sender *s, const Record *r)
{
        bool skipped = r->flags & RECORD_FLAG_SKIPPED;
        WireError error = r->error == WIRE_OK ? WIRE_FAILED : r->error;
        Offer *o;

        if (s->reported)
                s->reported(s->userdata, skipped ? WIRE_OK : error, r->text, r->path);
        if (skipped)
                return;
        if (s->progress.error == WIRE_OK)
                set_result(s, r);
        s->progress.n_failed++;
        if (s->reading && s->content.number == r->entry) {
                stop_reading(s);
                return;
        }
        o = find_offer(s, r->entry);
        if (o) {
                o->answered = true;
                o->want = WANT_NONE;
        }
}

static int on_record(Sender *s, const Record *r, const char **ret_why)
{
        switch (r->type) {
        case RECORD_WANT:
                return on_want(s, r, ret_why);
        case RECORD_ACK:
                s->progress.n_bytes = r->size;
                s->progress.n_files = r->offset;
                return 0;
        case RECORD_FAILED:
                on_failed(s, r);
                return 0;
        case RECORD_DONE:
                if (r->error == WIRE_OK && !s->ended) {
                        *ret_why = "the receiver has it all before all was sent";
                        return -EBADMSG;
                }
                s->progress.n_files = r->n_files;
                s->progress.n_bytes = r->n_bytes;
                s->progress.n_failed = r->n_failed;
                s->progress.digest = r->digest;
                set_result(s, r);
                s->progress.done = true;
                return 0;
        case RECORD_TOTALS:
        case RECORD_ENTRY:
        case RECORD_DATA:
        case RECORD_FILE_END:
        case RECORD_LEAVE:
        case RECORD_END:
                break;
        }
        *ret_why = "the receiver sent a sender's record";
        return -EBADMSG;
}

int sender_feed(Sender *s, const uint8_t *untrusted_data, size_t n, const char **ret_why)
{
        while (n > 0) {
                size_t taken;
                Record record;
                int r;

                if (s->progress.done) {
                        *ret_why = "the receiver goes on after DONE";
                        return -EBADMSG;
                }
                r = record_parser_next(s->parser, untrusted_data, n, &taken, &record, ret_why);
                if (r < 0)
                        return r;
                if (r > 0) {
                        r = on_record(s, &record, ret_why);
                        if (r < 0)
                                return r;
                }
                untrusted_data += taken;
                n -= taken;
        }
        return 0;
}

int sender_fd(const Sender *s)
{
        return s->reading && s->content.is_stream ? s->content.fd : -1;
}

const SenderProgress *sender_progress(const Sender *s)
{
        return &s->progress;
}
